# syntax=docker/dockerfile:1
# Octavo as two images of one source, built from the repository's root:
#   docker build --target cpu --tag octavo:cpu .
#   docker build --target gpu --tag octavo:gpu .
#   docker run --init --publish 127.0.0.1:8000:8000 --publish 127.0.0.1:8001:8001 \
#     --volume octavo:/data octavo:cpu
# Every package is pinned with its hash in requirements/. Build tools stay in the build stages.

# ---- gpu: TensorRT and ONNX Runtime for CUDA 13; pycuda is compiled here, against this image's CUDA ----
FROM nvidia/cuda:13.3.0-cudnn-devel-ubuntu24.04 AS gpu-build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The distribution withdraws a package's older versions, so a pinned one would soon stop the build.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/build.txt requirements/gpu.txt requirements/
# tensorrt-cu13-libs is a small source package: building its wheel brings the libraries from NVIDIA's own index.
RUN python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --require-hashes --requirement requirements/build.txt \
 && /opt/tools/bin/pip wheel --require-hashes --no-deps --no-build-isolation --wheel-dir /wheels \
      --requirement requirements/gpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python3 -m venv /opt/octavo \
 && /opt/octavo/bin/pip install --no-index --no-deps /wheels/*.whl

FROM nvidia/cuda:13.3.0-cudnn-runtime-ubuntu24.04 AS gpu
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 octavo \
 && useradd --uid 10001 --gid octavo --home-dir /data --no-create-home --shell /usr/sbin/nologin octavo \
 && install --directory --owner octavo --group octavo /data
COPY --from=gpu-build /opt/octavo /opt/octavo
ENV PATH=/opt/octavo/bin:$PATH PYTHONUNBUFFERED=1 OCTAVO_HOST=0.0.0.0 OCTAVO_PORT=8000 OCTAVO_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['OCTAVO_PORT'] + '/v2/health/live', timeout=2)"]
ENTRYPOINT ["octavo"]
CMD ["up"]

# ---- cpu: last, so that a build with no target makes this one ----
FROM python:3.12-slim-trixie AS cpu-build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/build.txt requirements/cpu.txt requirements/
RUN python -m venv /opt/tools \
 && /opt/tools/bin/pip install --require-hashes --requirement requirements/build.txt \
 && /opt/tools/bin/pip wheel --require-hashes --no-deps --no-build-isolation --wheel-dir /wheels \
      --requirement requirements/cpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv /opt/octavo \
 && /opt/octavo/bin/pip install --no-index --no-deps /wheels/*.whl

FROM python:3.12-slim-trixie AS cpu
RUN groupadd --gid 10001 octavo \
 && useradd --uid 10001 --gid octavo --home-dir /data --no-create-home --shell /usr/sbin/nologin octavo \
 && install --directory --owner octavo --group octavo /data
COPY --from=cpu-build /opt/octavo /opt/octavo
ENV PATH=/opt/octavo/bin:$PATH PYTHONUNBUFFERED=1 OCTAVO_HOST=0.0.0.0 OCTAVO_PORT=8000 OCTAVO_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['OCTAVO_PORT'] + '/v2/health/live', timeout=2)"]
ENTRYPOINT ["octavo"]
CMD ["up"]
