from django.db import models


class User(models.Model):
    """A row of rollcall's table, which rollcall's own migrations make."""

    email = models.TextField(primary_key=True)
    disabled_at = models.DateTimeField(null=True)
    last_seen_ns = models.BigIntegerField(null=True)
    ip = models.GenericIPAddressField(null=True)
    port = models.IntegerField(null=True)

    class Meta:
        managed = False
        db_table = "users"
