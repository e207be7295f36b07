from tests.installation import served, upload_digits, quantize_body
def test_s(tmp_path):
    with served(tmp_path) as c:
        upload_digits(c)
        r=c.get("/v2/models/digits/ready"); print(r.status_code, r.text)
        print(c.post("/quantize",json=quantize_body()).status_code)
        print(c.get("/models/digits/deployment").json())
        print(open(tmp_path/"serve.log").read()[-2000:])
