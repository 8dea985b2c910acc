"""The walkthrough's clerk, with what it does not need left out: no sessions, no templates, no admin."""

import os
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

DEBUG = False
SECRET_KEY = "nothing is signed here"
# nginx forwards whatever name the client called it by, and nothing here builds a URL from it.
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
WSGI_APPLICATION = "wsgi.application"
INSTALLED_APPS = ["accounts"]
MIDDLEWARE = ["accounts.middleware.CertificateMiddleware"]
USE_I18N = False
USE_TZ = True

_url = urlsplit(os.environ["DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(_url.path.lstrip("/")),
        "USER": unquote(_url.username or ""),
        "PASSWORD": unquote(_url.password or ""),
        "HOST": parse_qs(_url.query).get("host", [_url.hostname])[0],
        "PORT": _url.port or "",
        # One connection per worker thread, kept for good, and statements prepared on the server.
        "CONN_MAX_AGE": None,
        "OPTIONS": {"server_side_binding": True, "prepare_threshold": 5},
    }
}

PROXY_CREDENTIAL = Path(os.environ["PEER_CREDENTIAL"]).read_text().strip()
BROADCAST = os.environ["PEER_BROADCAST"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    # A refusal is an answer, not an incident: Django would write one line per 403.
    "loggers": {"django.request": {"level": "ERROR"}},
}
