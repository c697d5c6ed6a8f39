// One pair in a dialog: a slider between content and result, the style, the loss curve, facts.

const dialog = byId("detail");

const STOPS = {
  iterations: "all the evaluations allowed were used",
  converged: "the loss hardly fell any more",
  stuck: "no step lowered the loss",
  "non-finite": "the loss was not a finite number",
};
const stopText = (name) => STOPS[name] ?? name;

let opener = null; // the element to which the focus returns

function openDetail(pair) {
  if (!dialog.open) opener = document.activeElement;
  state.pair = pair;
  dialog.replaceChildren(...detail(pair));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector("#detail-name").focus();
  keepState();
}

// Goes to the pair before or after this one in the gallery, which turns its page accordingly.
function step(by) {
  const from = order.indexOf(state.pair);
  const at = from + by;
  if (from < 0 || at < 0 || at >= order.length) return;
  state.page = 1 + Math.floor(at / state.per);
  openDetail(order[at]);
  showPage();
}

function closed() {
  if (dialog.open) return; // the event comes late: another pair has been opened meanwhile
  const own = opener?.isConnected && opener.dataset.pair === String(state.pair) ? opener : null;
  const card = document.querySelector(`#cards [data-pair="${state.pair}"]`);
  state.pair = null;
  keepState();
  (own ?? card ?? byId("gallery-title")).focus();
}

function compare(pair) {
  const [result, content] = [resultPicture(pair), contentPicture(pair)];
  const [width, height] = column.size[pair] ?? [3, 2];
  if (!result) {
    return el(
      "p",
      { class: "stage empty" },
      "This page holds no thumbnail of the result. ",
      el("a", { href: fileLink(pair), target: "_blank", rel: "noopener" }, "Open the image file"),
    );
  }
  const box = el(
    "div",
    { class: "compare" },
    content && el("img", { src: content, alt: `Content ${contentName(pair)}` }),
    el("img", { class: "over", src: result, alt: `Result: ${contentName(pair)} ${aboutStyle(pair)}` }),
  );
  box.style.setProperty("--ratio", `${width} / ${height}`);
  box.style.setProperty("--wide", width / height);
  if (content) {
    const slide = el("input", {
      type: "range", min: 0, max: 100, value: 50, "aria-label": "Slide between content and result",
    });
    const cut = () => box.style.setProperty("--cut", `${slide.value}%`);
    slide.addEventListener("input", cut);
    cut();
    box.append(
      el("span", { class: "divider", "aria-hidden": "true" }),
      el("span", { class: "tag left", "aria-hidden": "true" }, "Content"),
      el("span", { class: "tag right", "aria-hidden": "true" }, "Result"),
      slide,
    );
  }
  return el("div", { class: "stage" }, box);
}

function facts(rows) {
  return el(
    "dl",
    { class: "facts" },
    rows
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

function pairFacts(pair) {
  const size = column.size[pair];
  const [load, optimize, store] = column.seconds[pair];
  const link = fileLink(pair);
  const own = Object.entries(column.own[pair] ?? {}).map(([name, value]) => `${name} = ${value}`);
  const stylized = isStylized(pair);
  return facts([
    ["Content", contentUri(pair)],
    [column.styles[pair].length > 1 ? "Styles" : "Style", styleUris(pair).join("\n")],
    ["Class", labelName(pair)],
    ["Data split", splitName(pair)],
    ["Settings of its own", own.join(", ")],
    ["Image file", link && el("a", { href: link, target: "_blank", rel: "noopener" }, column.file[pair])],
    ["Size", size && `${size[0]} × ${size[1]} px`],
    ["Loss", stylized ? `${shown(column.loss[pair])} (content ${shown(column.contentLoss[pair])}, style ${shown(column.styleLoss[pair])})` : null],
    ["Stopped", stylized ? `after ${count(column.evaluations[pair], "evaluation")}: ${stopText(pairs.stops[column.stop[pair]] ?? "unknown")}` : null],
    ["Time taken", stylized ? `read ${duration(load)}, optimise ${duration(optimize)}, write ${duration(store)}` : null],
    ["Finished", column.finished[pair] && time(column.finished[pair])],
    ["Id", column.id[pair]],
  ]);
}

function pairCurve(pair) {
  const line = curve(pair);
  if (line.length < 2) return null;
  const [first, last] = [line[0], line[line.length - 1]];
  const host = el("div", { class: "chart" });
  const ends = `Loss from ${shown(first[1])} to ${shown(last[1])} in ${count(last[0], "evaluation")}`;
  const readout = el("figcaption", {}, ends);
  lossChart(host, {
    line,
    band: null,
    label: ends,
    format: shown,
    height: 190,
    readout: (index) => {
      readout.textContent = index === null ? ends : `After ${count(line[index][0], "evaluation")}: ${shown(line[index][1])}`;
    },
  });
  return el("figure", { class: "curve" }, host, readout);
}

const warnings = (pair) => column.warnings[pair].map((line) => el("p", { class: "notice" }, line));

function detail(pair) {
  const at = order.indexOf(pair);
  const move = (by, text, possible) =>
    el("button", { type: "button", "aria-disabled": String(!possible), click: () => step(by) }, text);
  const styles = styleUris(pair).map((uri, index) =>
    el(
      "figure",
      { class: "thumb" },
      tile("picture", stylePictures(pair)[index], "Style", baseName(uri)),
      el("figcaption", {}, `Style: ${styleShort[column.styles[pair][index]]}`),
    ),
  );
  return [
    el(
      "header",
      {},
      el("div", {},
        el("h2", { id: "detail-name", tabindex: -1 }, pairTitle(pair)),
        el("p", { id: "detail-about" }, aboutStyle(pair))),
      el("span", { class: "moves" },
        move(-1, "Previous pair", at > 0),
        move(1, "Next pair", at >= 0 && at < order.length - 1),
        el("button", { type: "button", class: "close", click: () => dialog.close() }, "Close")),
    ),
    el(
      "div",
      { class: "body" },
      column.ok[pair]
        ? el("div", { class: "shown" }, compare(pair))
        : el("p", { class: "notice bad" }, el("strong", {}, errorName(pair)), ` ${column.message[pair] ?? ""}`),
      el("div", { class: "side" }, el("div", { class: "thumbs" }, styles), pairCurve(pair), warnings(pair), pairFacts(pair)),
    ),
  ];
}

function initDetail() {
  dialog.addEventListener("close", closed);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "range" || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}
