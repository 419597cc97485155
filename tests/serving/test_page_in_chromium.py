"""The page in a real browser: choosing, dropping and pasting photos, at 400 and at 1280 pixels, and what goes wrong."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chromium import BrowserPage, Chromium, chromium_command

pytestmark = [
    pytest.mark.remote,
    pytest.mark.skipif(chromium_command() is None, reason="needs Chromium"),
]
ANSWERED = "document.querySelectorAll('article .percent').length >= {}"
