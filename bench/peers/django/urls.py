from accounts.views import heartbeat
from django.urls import path

urlpatterns = [path("api/client", heartbeat)]
