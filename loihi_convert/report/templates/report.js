// Shows a mark's words beside the finger or the pointer. Without it they are the marks' own titles.
for (const figure of document.querySelectorAll("figure.chart")) {
  const words = new Map();
  for (const title of figure.querySelectorAll("svg title")) {
    words.set(title.parentNode, title.textContent);
    title.remove();
  }
  if (!words.size) continue;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  const show = (event) => {
    let nearest = null, least = 28;
    for (const mark of words.keys()) {
      const box = mark.getBoundingClientRect();
      if (!box.width && !box.height) continue;
      const x = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
      const y = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
      const distance = Math.hypot(x, y);
      if (distance < least) [nearest, least] = [mark, distance];
    }
    tip.hidden = !nearest;
    if (!nearest) return;
    tip.textContent = words.get(nearest);
    const outer = figure.getBoundingClientRect(), box = nearest.getBoundingClientRect();
    const middle = (Math.max(box.left, outer.left) + Math.min(box.right, outer.right)) / 2 - outer.left;
    const left = Math.min(Math.max(middle - tip.offsetWidth / 2, 4), outer.width - tip.offsetWidth - 4);
    tip.style.left = `${left}px`;
    tip.style.top = `${box.top - outer.top - tip.offsetHeight - 8}px`;
  };
  figure.addEventListener("pointermove", show);
  figure.addEventListener("pointerdown", show);
  figure.addEventListener("pointerleave", () => { tip.hidden = true; });
}
