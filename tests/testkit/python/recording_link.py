"""Uses and makes links to recordings, with Python's own HTTP, TLS and hmac.

    recording_link.py fetch ADDRESS CA URL FILE     asks the node at ADDRESS for the link, under the name in URL
    recording_link.py sign SECRET URL SECONDS       signs the link again, to expire so many seconds from now

`fetch` writes the body to FILE and prints JSON: `status`, and `headers` with names in lower case. `sign` prints the URL.
"""

import hashlib
import hmac
import http.client
import json
import socket
import ssl
import sys
import time
import urllib.parse


def fetch(address, authority, url, file):
    url = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=20)
    # The name is that of all nodes; the connection goes to one of them.
    plain = socket.create_connection((address, url.port), timeout=20)
    connection.sock = context.wrap_socket(plain, server_hostname=url.hostname)
    connection.request("GET", f"{url.path}?{url.query}")
    answer = connection.getresponse()
    with open(file, "wb") as out:
        out.write(answer.read())
    headers = {name.lower(): value for name, value in answer.getheaders()}
    print(json.dumps({"status": answer.status, "headers": headers}))


def sign(secret, url, seconds):
    parts = urllib.parse.urlsplit(url)
    *_, mailbox, message = parts.path.split("/")
    device = urllib.parse.parse_qs(parts.query)["device"][0]
    expires = int(time.time()) + int(seconds)
    key = hmac.new(secret.encode(), b"twinbox recording link 1", hashlib.sha256).digest()
    text = f"{mailbox}.{message}.{device}.{expires}".encode()
    signature = hmac.new(key, text, hashlib.sha256).hexdigest()
    query = urllib.parse.urlencode({"device": device, "expires": expires, "signature": signature})
    print(parts._replace(query=query).geturl())


action, *arguments = sys.argv[1:]
{"fetch": fetch, "sign": sign}[action](*arguments)
