// A part with its slider, where no model can be asked: drawn from the ranking, with confidences that were asked before.
// @ts-check
import {h, percent} from "./dom.js";
import {countAt, counted, draw, drawCurve, paste, prefix, rankingOf, seenOf, standOf} from "./pixels.js";

/** @param {string} text base64 of what was deflated @returns {Promise<ArrayBuffer>} */
function inflated(text) {
  const bytes = Uint8Array.from(atob(text), each => each.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

/** @param {string} address @returns {Promise<HTMLImageElement>} */
async function pictureAt(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

/**
 * What the model said at the size that was asked about and is nearest to this one.
 * @param {import("./pixels.js").Ranking} ranking @param {number} count @param {number} demanded
 */
function said(ranking, count, demanded) {
  const size = ranking.places.length;
  if (!ranking.counts.length) return "The model was not asked along the ranking.";
  if (!count) return "Nothing is shown.";
  let best = 0;
  ranking.counts.forEach((each, i) => { if (Math.abs(each - count) < Math.abs(ranking.counts[best] - count)) best = i; });
  const confidence = ranking.confidences[best], asked = ranking.counts[best];
  const first = asked === count ? "" : `The nearest size that was asked, ${percent(asked / size)}: `;
  const enough = confidence > 0 && confidence >= demanded - 1e-6;
  return `${first}${enough ? "enough" : "not enough"}, ${confidence > 0 ? `confidence ${percent(confidence)}` : "another class comes out on top"}.`
    .replace(/^./, letter => letter.toUpperCase());
}

/** Build the slider of one explanation, from what its element holds. @param {HTMLElement} root */
async function build(root) {
  const {ranking: text = "", photo = "", box = "0 0 1 1", demanded = "0", name = ""} = root.dataset;
  const source = /** @type {Element} */ (document.getElementById(photo));
  const ranking = rankingOf(await inflated(text)), {height, width} = ranking, size = height * width;
  const address = source.getAttribute("href") ?? source.getAttribute("src") ?? "";
  const seen = seenOf(await pictureAt(address), box.split(" ").map(Number), height, width);
  const part = counted(ranking.mask), least = Number(demanded);
  const canvas = h("canvas", {width: seen.width, height: seen.height, role: "img", ariaLabel: `What is shown of ${name}`});
  const share = h("output"), says = h("p", {className: "says", role: "status"});
  const curve = h("canvas", {className: "curve-along", width: 600, height: 90, role: "img", ariaLabel: "Confidence along the ranking"});
  const slider = h("input", {type: "range", min: 0, max: 1000, value: standOf(part, size)});
  const style = getComputedStyle(root), colour = (/** @type {string} */ each) => style.getPropertyValue(each);
  const show = (/** @type {number} */ count) => {
    const exact = count === part, mask = exact ? ranking.mask : prefix(ranking, count);
    draw(canvas, seen, mask, width, height, "dimmed", null);
    share.textContent = `${percent(count / size)} of the image${exact ? ", the part that was found" : ""}`;
    slider.ariaValueText = share.textContent;
    says.textContent = said(ranking, count, least);
    if (ranking.counts.length > 1) drawCurve(curve, ranking, least, count, {ink: colour("--ink"), act: colour("--act"), soft: colour("--soft")});
  };
  slider.addEventListener("input", () => requestAnimationFrame(() => {
    // The stand that the part itself has is the part, whatever lies beside it.
    show(Number(slider.value) === standOf(part, size) ? part : countAt(Number(slider.value), size));
  }));
  const back = h("button", {type: "button", onclick: () => { slider.value = String(standOf(part, size)); show(part); }}, "Back to the part");
  /** @type {Element} */ (root.querySelector(".slid")).append(canvas, h("label", {}, "Shown: ", share, slider), ...(ranking.counts.length > 1 ? [curve] : []), says, back);
  show(part);
  for (const place of /** @type {NodeListOf<HTMLCanvasElement>} */ (root.querySelectorAll("canvas[data-behind]"))) {
    const behind = place.dataset.behind ?? "";
    place.width = width; place.height = height;
    paste(place, seen, ranking.mask, behind.startsWith("data:") ? await pictureAt(behind) : behind);
  }
  root.dataset.built = "yes";
}

/** Build each slider of the page when it comes near to what is seen, so that hundreds cost nothing before. */
export function watchSliders() {
  const near = new IntersectionObserver(entries => entries.forEach(entry => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    build(/** @type {HTMLElement} */ (entry.target.parentElement)).catch(error => console.warn(error));
  }), {rootMargin: "800px"});
  document.querySelectorAll("[data-ranking] > .slid").forEach(each => near.observe(each));
}
