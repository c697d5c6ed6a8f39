// One pair in a dialog: content and result under one slider, the style, its curve, its facts.

const dialog = byId("detail");

const STOPS = {
  iterations: "all evaluations were used",
  converged: "the loss hardly fell any more",
  stuck: "no step lowered the loss",
  "non-finite": "the loss was not finite",
};
const stopText = (name) => (STOPS[name] ? `${STOPS[name]} (${name})` : name);

function openDetail(pair) {
  state.pair = pair;
  dialog.replaceChildren(...detail(pair));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector("#detail-name").focus();
  keepState();
}

// To the neighbour in the gallery's order; the gallery turns its page with it.
function step(by) {
  const at = order.indexOf(state.pair) + by;
  if (at < 0 || at >= order.length) return;
  state.page = 1 + Math.floor(at / state.per);
  openDetail(order[at]);
  showPage();
}

function closed() {
  if (dialog.open) return; // the event comes late: another pair has been opened meanwhile
  const card = document.querySelector(`[data-pair="${state.pair}"]`);
  state.pair = null;
  keepState();
  (card ?? byId("gallery-title")).focus();
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
    el("img", { class: "over", src: result, alt: `Result: ${contentName(pair)} in the style of ${styleName(pair)}` }),
  );
  box.style.setProperty("--ratio", `${width} / ${height}`);
  box.style.setProperty("--wide", width / height);
  if (content) {
    const slide = el("input", {
      type: "range", min: 0, max: 100, value: 50, "aria-label": "Where the content ends and the result begins",
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
  const ok = column.ok[pair];
  return facts([
    ["Content", contentUri(pair)],
    [column.styles[pair].length > 1 ? "Styles" : "Style", styleUris(pair).join("\n")],
    ["Label", labelName(pair)],
    ["Split", splitName(pair)],
    ["Its own settings", own.join(", ")],
    ["Image file", link && el("a", { href: link, target: "_blank", rel: "noopener" }, column.file[pair])],
    ["Size", size && `${size[0]} × ${size[1]} px`],
    ["Loss", ok ? `${shown(column.loss[pair])} (content ${shown(column.contentLoss[pair])}, style ${shown(column.styleLoss[pair])})` : null],
    ["Stopped", ok ? `after ${count(column.evaluations[pair], "evaluation")}: ${stopText(pairs.stops[column.stop[pair]] ?? "unknown")}` : null],
    ["Seconds", ok ? `load ${shown(load)}, optimise ${shown(optimize)}, store ${shown(store)}` : null],
    ["Finished", column.finished[pair] && time(column.finished[pair])],
  ]);
}

function pairCurve(pair) {
  const line = curve(pair);
  if (line.length < 2) return null;
  const [first, last] = [line[0], line[line.length - 1]];
  const host = el("div", { class: "chart" });
  const ends = `Loss from ${shown(first[1])} to ${shown(last[1])} in ${count(last[0], "evaluation")}, logarithmic scale`;
  const readout = el("figcaption", {}, ends);
  lossChart(host, {
    line,
    band: null,
    label: ends,
    format: shown,
    readout: (index) => {
      readout.textContent = index === null ? ends : `After ${count(line[index][0], "evaluation")}: ${shown(line[index][1])}`;
    },
  });
  return el("figure", {}, host, readout);
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
      el("figcaption", {}, `Style: ${baseName(uri)}`),
    ),
  );
  return [
    el(
      "header",
      {},
      el("h2", { id: "detail-name", tabindex: -1 }, column.id[pair]),
      el("span", { class: "moves" },
        move(-1, "Previous pair", at > 0),
        move(1, "Next pair", at >= 0 && at < order.length - 1),
        el("button", { type: "button", class: "close", click: () => dialog.close() }, "Close")),
    ),
    el(
      "div",
      { class: "body" },
      column.ok[pair]
        ? el("div", { class: "shown" }, compare(pair), pairCurve(pair))
        : el("p", { class: "notice bad" }, el("strong", {}, errorName(pair)), ` ${column.message[pair] ?? ""}`),
      el("div", { class: "side" }, el("div", { class: "thumbs" }, styles), warnings(pair), pairFacts(pair)),
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
