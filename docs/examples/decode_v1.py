#!/usr/bin/env python3
"""Decodes rollcall datagrams as programs did before there was a version 2 (docs/wire.md), one line of JSON
each: it reads the fields from the front and ignores what follows. It believes everybody.

    decode_v1.py PORT     listens on a UDP port
"""
import json, socket, struct, sys

ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
ear.bind(("", int(sys.argv[1])))
while True:
    d = ear.recv(65536)
    try:
        email, (seen, ip_length) = d[1:1 + d[0]].decode("ascii"), struct.unpack_from(">QB", d, 1 + d[0])
        ip, port = struct.unpack_from(f">{ip_length}sH", d, 10 + d[0])
        status = {"email": email, "last_seen_ns": str(seen), "ip": ip.decode("ascii"), "port": port}
    except (IndexError, ValueError, struct.error):
        continue  # Not ours: others share the port.
    print(json.dumps(status), flush=True)
