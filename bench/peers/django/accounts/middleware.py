"""Who is asking: the name that nginx read from the certificate."""

from django.conf import settings
from django.http import HttpResponse
from django.utils.crypto import constant_time_compare


class CertificateMiddleware:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if not constant_time_compare(
            request.headers.get("X-Proxy-Credential", ""), settings.PROXY_CREDENTIAL
        ):
            return HttpResponse(status=401)
        name = request.headers.get("X-Subject-CN", "")
        if not name:
            return HttpResponse(status=401)
        if "@" not in name or len(name) > 254:
            return HttpResponse(status=400)
        request.email = name.lower()
        return self.get_response(request)
