"""HTTP only: requests in, domain calls, responses out."""
