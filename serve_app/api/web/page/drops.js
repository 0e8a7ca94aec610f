// Files that are dropped or pasted anywhere on the page.

/** Hand files to `onFiles`, and show while something is dragged that it can be dropped. */
export function takeFiles(onFiles) {
  let depth = 0;
  const over = (isOver) => document.body.classList.toggle("dragging", isOver);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => hasFiles(event) && over(++depth > 0));
  addEventListener("dragleave", (event) => hasFiles(event) && over(--depth > 0));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  const end = () => {
    depth = 0;
    over(false);
  };
  document.addEventListener("dropped", end);
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    end();
    onFiles([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    onFiles(files);
  });
}
