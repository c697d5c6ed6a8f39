// The table of content images by styles: each cell opens its pair.

const { grid } = data;

const gridHasPictures = () => grid !== null && grid.cells.flat().some((pair) => pair >= 0 && hasPicture(pair));

// A content image's class, if all its pairs in the table have the same.
function classIn(row) {
  const labels = new Set(row.filter((pair) => pair >= 0).map(labelName));
  return labels.size === 1 ? [...labels][0] : null;
}

function heading(scope, kind, source, name) {
  return el("th", { scope, class: kind },
    source && el("img", { src: source, alt: "", decoding: "async" }),
    el("span", { title: name }, name));
}

function gridCell(pair, content, style) {
  const what = `${content} in the style of ${style}`;
  if (pair < 0) return el("td", { class: "none" }, el("span", {}, "not made"));
  const source = resultPicture(pair);
  return el("td", {},
    el("button", { type: "button", "data-pair": pair, title: what, click: () => openDetail(pair) },
      source
        ? el("img", { src: source, alt: what, decoding: "async" })
        : el("span", { class: column.ok[pair] ? null : "bad", "aria-label": what }, column.ok[pair] ? "open" : "failed")));
}

const byName = (heads) => heads.sort((a, b) => collator.compare(a.name, b.name));

function showGrid() {
  const hidden = !gridHasPictures();
  for (const id of ["table", "to-table"]) byId(id).hidden = hidden;
  if (hidden) return;
  const columns = byName(grid.styles.map((style, at) => ({
    at, name: styleShort[style], source: picture(pairs.stylePictures[style]) })));
  const rows = byName(grid.contents.map((content, at) => ({
    name: titled(content, classIn(grid.cells[at])), source: picture(pairs.contentPictures[content]), cells: grid.cells[at] })));
  const complete = grid.contents.length === grid.allContents && grid.styles.length === grid.allStyles;
  byId("table-note").textContent = complete
    ? "Each row is a content image, each column a style. Open a picture for details."
    : `Each row is a content image, each column a style: ${grid.contents.length} of ${count(grid.allContents, "content image")} and ${grid.styles.length} of ${count(grid.allStyles, "style")}. Open a picture for details.`;
  byId("table-body").append(
    el("table", { class: `grid-table${columns.length > 5 ? " many" : ""}` },
      el("thead", {},
        el("tr", {},
          el("td", { class: "corner" }),
          columns.map(({ source, name }) => heading("col", "style", source, name)))),
      el("tbody", {}, rows.map(({ source, name, cells }) =>
        el("tr", {},
          heading("row", "content", source, name),
          columns.map((style) => gridCell(cells[style.at], name, style.name)))))));
}
