(() => {
  "use strict";
  const { images, groups, folder } = JSON.parse(document.getElementById("data").textContent);
  const dialog = document.getElementById("gallery");
  const title = document.getElementById("gallery-title");
  const sheet = dialog.querySelector(".sheet");
  const AT_ONCE = 200;
  let rest = [];

  const line = (text, kind) => {
    const span = document.createElement("span");
    span.textContent = text;
    if (kind) span.className = kind;
    return span;
  };
  const tile = (index) => {
    const [name, file, label, said, right, about] = images[index];
    const figure = document.createElement("figure");
    const picture = document.createElement(file ? "img" : "div");
    if (file) {
      picture.loading = "lazy";
      picture.width = picture.height = 160;
      picture.alt = name;
      picture.src = `${folder}/${file}`;
    } else picture.className = "none";
    const caption = document.createElement("figcaption");
    if (label) caption.append(line(label));
    if (said) caption.append(line(right === 0 ? `taken for ${said}` : said, right === 0 ? "bad-text" : ""));
    caption.append(line(about, "soft"), line(name, "soft"));
    figure.append(picture, caption);
    return figure;
  };
  // A class may have thousands of images: the sheet grows as it is read.
  const more = () => sheet.append(...rest.splice(0, AT_ONCE).map(tile));
  dialog.addEventListener("scroll", () => {
    if (rest.length && dialog.scrollTop + dialog.clientHeight > dialog.scrollHeight - 800) more();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".opens");
    if (!button) return;
    rest = [...groups[Number(button.dataset.group)]];
    const shown = button.textContent;
    const count = `${rest.length} image${rest.length === 1 ? "" : "s"}`;
    const said = button.title ? ` (${button.title})` : "";
    title.textContent = button.title.startsWith(shown) ? button.title : `${shown}: ${count}${said}`;
    sheet.replaceChildren();
    more();
    dialog.showModal();
    dialog.scrollTop = 0;
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
})();
