#!/usr/bin/env python3
"""Decodes and verifies rollcall datagrams (docs/wire.md), one line of JSON each.
    decode.py KEY.pub PORT     listens on a UDP port
    decode.py KEY.pub          reads datagrams from standard input, one per line, in hexadecimal

Openssl checks the signature. Left out is what a listener remembers, to tell news from replays.
"""
import functools, hashlib, ipaddress, json, re, socket, struct, subprocess, sys, tempfile
KEY = sys.argv[1] if sys.argv[1:] else sys.exit(__doc__)
DER = ["openssl", "pkey", "-pubin", "-outform", "DER", "-in", KEY]
KEY_ID = hashlib.sha256(subprocess.check_output(DER)[-32:]).digest()[:4]
ATOM, LABEL = r"[\w!#$%&'*+/=?^`{|}~-]+", r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
EMAIL = re.compile(rf"(?=.{{3,254}}$)(?=[^@]{{1,64}}@){ATOM}(\.{ATOM})*@{LABEL}(\.{LABEL})*", re.ASCII)

@functools.lru_cache(64)
def signed(message, signature):
    with tempfile.NamedTemporaryFile() as m, tempfile.NamedTemporaryFile() as s:
        m.write(message), m.flush(), s.write(signature), s.flush()
        check = f"openssl pkeyutl -verify -pubin -rawin -in {m.name} -sigfile {s.name} -inkey".split()
        return subprocess.run(check + [KEY], capture_output=True).returncode == 0

def root(hash, index, count, path):
    last = count - 1
    while last:
        if index & 1 or index < last:
            pair = path[:32] + hash if index & 1 else hash + path[:32]
            hash, path = hashlib.sha256(b"\1" + pair).digest(), path[32:]
        index, last = index >> 1, last >> 1
    return hash if not path else None

def proof(d, t):
    if d[t:t + 3] != b"RC\2" or len(d) < t + 92:
        return {"verdict": "unsigned" if len(d) == t else "forged" if d[t:t + 3] == b"RC\2" else "foreign"}
    kind, key_id, epoch, sequence, index, count = struct.unpack_from(">B4sQQHH", d, t + 3)
    leaf = hashlib.sha256(b"\0" + d[:t + 24]).digest()
    top = sequence and index < count <= 512 and root(leaf, index, count, d[t + 28:-64])
    if top and key_id != KEY_ID:
        return {"verdict": "unknown key"}
    if not top or not signed(struct.pack(">17sQH", b"rollcall/2 batch", epoch, count) + top, d[-64:]):
        return {"verdict": "forged"}
    return {"verdict": "verified", "kind": kind, "epoch": str(epoch), "sequence": str(sequence), "index": index}

def decode(d):
    try:
        email = EMAIL.fullmatch(d[1:1 + d[0]].decode("ascii").lower())[0]
        seen, ip_length = struct.unpack_from(">QB", d, 1 + d[0])
        ip, port = struct.unpack_from(f">{ip_length}sH", d, 10 + d[0])
        ip = str(ipaddress.ip_address(ip.replace(b"%", b"?").decode("ascii")))  # It would take fe80::1%eth0.
    except (IndexError, TypeError, ValueError, struct.error):
        return {"verdict": "foreign"}
    return {"email": email, "last_seen_ns": str(seen), "ip": ip, "port": port} | proof(d, 12 + d[0] + ip_length)

def listen(port):
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    ear.bind(("", port))
    return iter(lambda: ear.recv(65536), None)

for datagram in listen(int(sys.argv[2])) if len(sys.argv) > 2 else map(bytes.fromhex, sys.stdin):
    print(json.dumps(decode(datagram)), flush=True)
