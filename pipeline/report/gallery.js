// The gallery: filters, a page of cards, paging. The page's address keeps its state.

const START = {
  q: "",
  style: "",
  label: "",
  split: "",
  status: "",
  sort: partlyPictured ? "pictures" : "name",
  only: false,
  page: 1,
  per: 24,
  pair: null, // whose detail view is open
};
const state = { ...START };
let order = []; // the pairs that pass the filters, sorted

const MOST_OPTIONS = 1000;

function options(select, all, choices, names = choices) {
  const left = names.length - choices.length;
  select.replaceChildren(
    el("option", { value: "" }, all),
    ...choices.map(([value, text]) => el("option", { value }, text)),
    ...(left > 0 ? [el("option", { disabled: true }, `${whole.format(left)} more: use the search`)] : []),
  );
}

function counted(names, numbersOf) {
  const counts = new Array(names.length).fill(0);
  for (const pair of everyPair) for (const number of numbersOf(pair)) counts[number] += 1;
  const choices = names.map((name, number) => [number, `${name} (${whole.format(counts[number])})`]);
  return choices
    .sort((a, b) => counts[b[0]] - counts[a[0]])
    .slice(0, MOST_OPTIONS)
    .sort((a, b) => collator.compare(a[1], b[1]));
}

function initFilters() {
  const { labels, splits, errors } = pairs;
  const styles = pairs.styles.names;
  options(byId("style"), "All styles", counted(styleShort, (pair) => column.styles[pair]), styles);
  const only = (numbers) => (pair) => (numbers[pair] < 0 ? [] : [numbers[pair]]);
  options(byId("label"), "All classes", counted(labels, only(column.label)), labels);
  options(byId("split"), "All splits", counted(splits, only(column.split)));
  const failed = pairs.count - done;
  const classes = counted(errors, only(column.error));
  options(byId("status"), "All", [
    ["ok", `Done (${whole.format(done)})`],
    ["error", `Errors (${whole.format(failed)})`],
    ...classes.map(([number, text]) => [`error:${errors[number]}`, `Error: ${text}`]),
  ]);
  const sorts = Object.entries(SORTS).filter(([name]) => name !== "pictures" || partlyPictured);
  byId("sort").replaceChildren(...sorts.map(([value, { text }]) => el("option", { value }, text)));
  byId("style").parentNode.hidden = styles.length < 2;
  byId("label").parentNode.hidden = labels.length < 2;
  byId("split").parentNode.hidden = splits.length < 2;
  byId("status").parentNode.hidden = failed === 0;
  byId("only").closest("p").hidden = !partlyPictured;
}

// An image; without a thumbnail, its name.
function tile(kind, source, what, name) {
  if (source) return el("img", { src: source, alt: `${what} ${name}`.trim(), class: kind, decoding: "async" });
  return el("span", { class: `${kind} missing` }, el("span", { class: "hidden" }, `${what} `), el("span", {}, name));
}

function styleTile(pair) {
  const uris = styleUris(pair);
  const sources = stylePictures(pair);
  const tiles = uris
    .slice(0, 4)
    .map((uri, index) => tile("part", sources[index], "Style", baseName(uri)));
  return el("span", { class: `style parts-${tiles.length}` }, tiles);
}

function resultTile(pair) {
  if (column.ok[pair]) return tile("result", resultPicture(pair), "Result", hasPicture(pair) ? "" : "no thumbnail");
  return el(
    "span",
    { class: "result failed" },
    el("strong", {}, errorName(pair)),
    el("span", { class: "message" }, column.message[pair] ?? ""),
  );
}

function card(pair) {
  const facts = isStylized(pair)
    ? [`loss ${shown(column.loss[pair])}`, duration(seconds(pair))]
    : [column.ok[pair] ? "original" : "error"];
  const link = fileLink(pair);
  return el(
    "li",
    { class: "card" },
    el(
      "button",
      { type: "button", class: "open", "data-pair": pair, click: () => openDetail(pair) },
      el(
        "span",
        { class: "mosaic" },
        tile("content", contentPicture(pair), "Content", contentName(pair)),
        styleTile(pair),
        resultTile(pair),
      ),
      el("span", { class: "name", title: pairTitle(pair) }, pairTitle(pair)),
      el("span", { class: "about" }, aboutStyle(pair)),
      el("span", { class: "id", title: column.id[pair] }, column.id[pair]),
    ),
    el(
      "p",
      { class: column.ok[pair] ? "facts" : "facts bad" },
      el("span", {}, facts.join(" · ")),
      sparkline(curve(pair)),
      link && el("a", { href: link, target: "_blank", rel: "noopener", "aria-label": `Image file of ${column.id[pair]}` }, "Image file"),
    ),
  );
}

const lastPage = () => Math.max(1, Math.ceil(order.length / state.per));

function showPage() {
  const last = lastPage();
  state.page = Math.min(Math.max(1, state.page), last);
  const from = (state.page - 1) * state.per;
  byId("cards").replaceChildren(...order.slice(from, from + state.per).map(card));
  byId("page").value = state.page;
  byId("page").max = last;
  byId("of").textContent = `of ${whole.format(last)}`;
  byId("pages").hidden = order.length <= 12;
  for (const id of ["first", "previous"]) byId(id).setAttribute("aria-disabled", state.page <= 1);
  for (const id of ["next", "last"]) byId(id).setAttribute("aria-disabled", state.page >= last);
  keepState();
}

// Called after any change of filters or order.
function refresh() {
  order = sorted(filtered(state), state.sort);
  showPage();
  const all = order.length === pairs.count;
  byId("found").textContent = order.length
    ? `${all ? "" : `${whole.format(order.length)} of `}${count(pairs.count, "pair")}`
    : "No pair fits. Clear the search, or choose other filters.";
  byId("reset").hidden = all;
}

function turn(page) {
  const before = state.page;
  state.page = page;
  showPage();
  if (state.page === before) return;
  byId("found").textContent = `Page ${whole.format(state.page)} of ${whole.format(lastPage())}, ${count(order.length, "pair")}`;
  byId("filters").scrollIntoView({ block: "start" });
}

function setFilters(changes) {
  Object.assign(state, START, { per: state.per, sort: state.sort }, changes);
  showFilters();
  refresh();
}

const FIELDS = ["q", "style", "label", "split", "status", "sort"];

function showFilters() {
  for (const name of FIELDS) byId(name).value = state[name];
  byId("only").checked = state.only;
  byId("per").value = state.per;
}

function keepState() {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== START[name]) kept.set(name, value === true ? "1" : value);
  }
  if (state.pair !== null) kept.set("pair", column.id[state.pair]);
  const text = kept.toString();
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch {
    // Some viewers give a page no address.
  }
}

function readState() {
  const kept = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, START);
  for (const name of FIELDS) {
    const value = kept.get(name);
    const field = byId(name);
    if (value === null) continue;
    if (!field.options || [...field.options].some((option) => option.value === value)) state[name] = value;
  }
  state.only = kept.get("only") === "1" && partlyPictured;
  state.page = Math.floor(Number(kept.get("page"))) || 1;
  if (["12", "24", "48", "96"].includes(kept.get("per"))) state.per = Number(kept.get("per"));
  const named = kept.has("pair") ? column.id.indexOf(kept.get("pair")) : -1;
  showFilters();
  refresh();
  if (named >= 0) openDetail(named);
}

function initGallery() {
  initFilters();
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  const take = () => {
    for (const name of FIELDS) state[name] = byId(name).value;
    state.only = byId("only").checked;
    state.page = 1;
    refresh();
  };
  byId("q").addEventListener("input", take);
  byId("filters").addEventListener("change", (event) => {
    if (event.target.id !== "q") take(); // the search was taken letter by letter
  });
  byId("reset").addEventListener("click", () => {
    setFilters({});
    byId("gallery-title").focus();
  });
  byId("first").addEventListener("click", () => turn(1));
  byId("previous").addEventListener("click", () => turn(state.page - 1));
  byId("next").addEventListener("click", () => turn(state.page + 1));
  byId("last").addEventListener("click", () => turn(lastPage()));
  byId("page").addEventListener("change", () => turn(Math.floor(Number(byId("page").value)) || 1));
  byId("per").addEventListener("change", () => {
    const top = (state.page - 1) * state.per;
    state.per = Number(byId("per").value);
    turn(1 + Math.floor(top / state.per));
  });
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) readState();
  });
}
