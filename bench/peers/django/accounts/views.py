"""The clerk: one row updated, then the broadcaster told."""

import time

from django.db import OperationalError
from django.db.models import Q
from django.http import HttpResponse
from django.views.decorators.http import require_http_methods

from .broadcaster import Broadcaster
from .models import User


@require_http_methods(["PATCH"])
def heartbeat(request):
    now_ns = time.time_ns()
    ip, port = request.headers["X-Real-IP"], int(request.headers["X-Real-Port"])
    enabled = User.objects.filter(email=request.email, disabled_at=None)
    try:
        # One statement in the usual case. The time never goes backwards: a newer sighting stays.
        updated = enabled.filter(Q(last_seen_ns=None) | Q(last_seen_ns__lte=now_ns)).update(
            last_seen_ns=now_ns, ip=ip, port=port
        )
        if not updated:
            # Refused, or overtaken by a newer sighting of the same person, which was announced.
            return HttpResponse(status=204 if enabled.exists() else 403)
    except OperationalError:
        return HttpResponse(status=503, headers={"Retry-After": "2"})
    Broadcaster.instance().send(request.email, now_ns, ip, port)
    return HttpResponse(status=204)
