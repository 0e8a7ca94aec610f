"""Files that a person drops on the page or pastes into it."""

import base64

from playwright.async_api import JSHandle, Page

_TRANSFER = """([name, type, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
  return transfer;
}"""


async def drop(page: Page, target: str, name: str, kind: str, data: bytes) -> None:
    """Drop a file on an element."""
    await page.dispatch_event(target, "drop", {"dataTransfer": await _transfer(page, name, kind, data)})


async def paste(page: Page, name: str, kind: str, data: bytes) -> None:
    """Paste a file, as from another program's clipboard."""
    script = """(transfer) => dispatchEvent(
        new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }))"""
    await page.evaluate(script, await _transfer(page, name, kind, data))


async def _transfer(page: Page, name: str, kind: str, data: bytes) -> JSHandle:
    return await page.evaluate_handle(_TRANSFER, [name, kind, base64.b64encode(data).decode()])
