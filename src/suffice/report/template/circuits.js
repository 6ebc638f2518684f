// The page says everything without this script; with it, a node under the pointer shows what it sees.
(() => {
  "use strict";

  for (const row of document.querySelectorAll(".graph-row")) {
    const graph = row.querySelector(".graph-frame svg");
    const image = row.querySelector("image.map");
    const readout = row.querySelector(".readout");
    const hint = readout.textContent;
    const ways = [...graph.querySelectorAll(".way")];
    let held = null;

    const show = (dot) => {
      const id = dot?.dataset.id;
      graph.classList.toggle("chosen", dot !== null);
      for (const way of ways) way.classList.toggle("touched", way.dataset.from === id || way.dataset.to === id);
      readout.textContent = dot === null ? hint : dot.querySelector("title").textContent;
      image.setAttribute("href", dot?.dataset.map ?? "");
    };
    const hold = (dot) => {
      held?.classList.remove("held");
      held = dot === held ? null : dot;
      held?.classList.add("held");
      show(held ?? dot);
    };
    for (const dot of graph.querySelectorAll(".dot")) {
      dot.setAttribute("tabindex", "0");
      dot.addEventListener("pointerenter", () => show(dot));
      dot.addEventListener("pointerleave", () => show(held));
      dot.addEventListener("focus", () => show(dot));
      dot.addEventListener("blur", () => show(held));
      dot.addEventListener("click", () => hold(dot));
      dot.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          hold(dot);
        }
      });
    }
    // A page that opens shows at once what it can do.
    const first = graph.querySelector(".dot.start");
    if (first) hold(first);
  }
})();
