"""The chat page: one file with style and script inside, and the policy under which nothing else of it runs or loads."""

import base64
import hashlib
import re
from importlib import resources


def chat_page() -> tuple[bytes, str]:
    """The page, and its content security policy: its own style and script by their hashes, requests to its own server."""
    text = (resources.files("trainer") / "inference" / "serving" / "chat.html").read_text(encoding="utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hashes('style', text)}",
            f"script-src {_hashes('script', text)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return text.encode(), policy


def _hashes(tag: str, text: str) -> str:
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in contents)
