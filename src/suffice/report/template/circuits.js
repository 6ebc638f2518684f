// The page says everything without this script; with it, a node under the pointer shows what it sees.
(() => {
  "use strict";

  for (const row of document.querySelectorAll(".graph-row")) {
    const graph = row.querySelector(".graph-frame svg");
    const image = row.querySelector("image.map");
    const readout = row.querySelector(".readout");
    const hint = readout.textContent;
    const ways = [...graph.querySelectorAll(".way")];
    const strongest = row.querySelector(".strongest");
    const references = (row.dataset.references ?? "").split(" ").filter(Boolean);
    const switches = row.querySelector(".switches");
    const [toggle, reset] = switches.querySelectorAll("button");
    const said = switches.querySelector(".said");
    const effects = new Map(JSON.parse(row.dataset.effects || "[]").map(([off, logit, p]) => [off.join("\n"), { logit, p }]));
    const base = effects.get("");
    const out = new Set();
    const dots = [...graph.querySelectorAll(".dot")];
    let held = null;

    // What was asked, or else what single nodes and pairs add up to.
    const withoutThem = () => {
      const ids = [...out].sort();
      const asked = effects.get(ids.join("\n"));
      if (asked) return { ...asked, asked: true };
      const change = (...some) => effects.get(some.join("\n"))?.logit - base.logit;
      let logit = base.logit + ids.reduce((sum, id) => sum + change(id), 0);
      ids.forEach((a, i) => {
        for (const b of ids.slice(i + 1)) {
          if (effects.has(`${a}\n${b}`)) logit += change(a, b) - change(a) - change(b);
        }
      });
      return { logit, asked: false };
    };
    const say = () => {
      if (!base) return;
      const chosen = held?.dataset.id;
      toggle.disabled = !effects.has(chosen ?? "none");
      toggle.textContent = out.has(chosen) ? "Switch this node on (o)" : "Switch this node off (o)";
      reset.disabled = out.size === 0;
      const now = withoutThem();
      const percent = (p) => `${(100 * p).toFixed(1)}%`;
      said.textContent =
        out.size === 0
          ? `With the circuit on the class’s logit is ${base.logit.toFixed(2)} (confidence ${percent(base.p)}).`
          : `${out.size} more off: logit ${base.logit.toFixed(2)} → ${now.logit.toFixed(2)}` +
            (now.asked ? ` (confidence ${percent(base.p)} → ${percent(now.p)})` : ", estimated from single nodes and pairs");
    };
    const flip = () => {
      const id = held?.dataset.id;
      if (!base || !effects.has(id ?? "none")) return;
      if (!out.delete(id)) out.add(id);
      held.classList.toggle("out", out.has(id));
      say();
    };
    if (base) {
      switches.hidden = false;
      toggle.addEventListener("click", flip);
      reset.addEventListener("click", () => {
        out.clear();
        for (const dot of dots) dot.classList.remove("out");
        say();
      });
    }
    // The nearest node to the left, right, above or below.
    const neighbour = (dot, dx, dy) => {
      const at = (some) => ["cx", "cy"].map((name) => Number(some.querySelector("circle").getAttribute(name)));
      const [x, y] = at(dot);
      const distance = (other) => {
        const [u, v] = at(other);
        const along = (u - x) * dx + (v - y) * dy;
        return along > 1 ? along + 3 * Math.abs((u - x) * dy + (v - y) * dx) : Infinity;
      };
      const best = dots.reduce((a, b) => (distance(b) < distance(a) ? b : a));
      return distance(best) < Infinity ? best : dot;
    };

    const show = (dot) => {
      const id = dot?.dataset.id;
      graph.classList.toggle("chosen", dot !== null);
      for (const way of ways) way.classList.toggle("touched", way.dataset.from === id || way.dataset.to === id);
      readout.textContent = dot === null ? hint : dot.querySelector("title").textContent;
      image.setAttribute("href", dot?.dataset.map ?? "");
      const most = (dot?.dataset.strongest ?? "").split(" ").filter(Boolean);
      strongest.hidden = most.length === 0;
      strongest.lastElementChild.replaceChildren(
        ...most.map((number) => Object.assign(document.createElement("img"), { src: references[number], alt: `reference image ${number}` })),
      );
    };
    const hold = (dot) => {
      held?.classList.remove("held");
      held = dot === held ? null : dot;
      held?.classList.add("held");
      show(held ?? dot);
      say();
    };
    for (const dot of dots) {
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
        const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (arrow) {
          event.preventDefault();
          neighbour(dot, ...arrow).focus();
        }
        if (event.key === "o") {
          if (held !== dot) hold(dot);
          flip();
        }
      });
    }
    // A page that opens shows at once what it can do.
    const first = graph.querySelector(".dot.start");
    if (first) hold(first);
    say();
  }
})();
