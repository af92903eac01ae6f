"""Reads a mail with Python's own parser, and verifies its DKIM signature with dkimpy.

    read_mail.py MAIL SOUND [NAME RECORD]

Writes the first sound file of the mail to SOUND, and a JSON object to standard output. NAME and RECORD are the DNS name
and the text of the public key.
"""

import email
import email.policy
import json
import sys

mail, sound, *key = sys.argv[1:]
with open(mail, "rb") as file:
    content = file.read()
message = email.message_from_bytes(content, policy=email.policy.default)
body = message.get_body(("plain",))
attachments = []
for part in message.iter_attachments():
    data = part.get_payload(decode=True) or b""
    attachments.append({"type": part.get_content_type(), "name": part.get_filename(), "bytes": len(data)})
    if part.get_content_maintype() == "audio" and sum(a["type"].startswith("audio/") for a in attachments) == 1:
        with open(sound, "wb") as file:
            file.write(data)


def is_signed(name, text):
    import dkim

    def record(wanted, timeout=5):
        return text if wanted.decode().rstrip(".") == name else None

    return dkim.verify(content, dnsfunc=record)


print(
    json.dumps(
        {
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "defects": [str(defect) for part in message.walk() for defect in part.defects],
            "text": body.get_content() if body else "",
            "attachments": attachments,
            "dkim": bool(key) and is_signed(*key),
        }
    )
)
