"""The broadcaster: one socket per process, opened once."""

import logging
import socket
import struct
import threading

from django.conf import settings


class Broadcaster:
    _instance = None
    _lock = threading.Lock()

    @classmethod
    def instance(cls):
        if cls._instance is None:
            with cls._lock:
                if cls._instance is None:
                    cls._instance = cls()
        return cls._instance

    def __init__(self):
        host, port = settings.BROADCAST.rsplit(":", 1)
        self.destination = (host, int(port))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socket.setblocking(False)

    def send(self, email, last_seen_ns, ip, port):
        name, address = email.encode(), ip.encode()
        datagram = struct.pack(
            f">B{len(name)}sQB{len(address)}sH",
            len(name), name, last_seen_ns, len(address), address, port,
        )
        try:
            self.socket.sendto(datagram, self.destination)
        except OSError:
            logging.getLogger(__name__).debug("the broadcast failed", exc_info=True)
