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

function showGrid() {
  const hidden = !gridHasPictures();
  for (const id of ["table", "to-table"]) byId(id).hidden = hidden;
  if (hidden) return;
  const styles = grid.styles.map((style) => styleShort[style]);
  const rows = grid.contents.map((content, index) => {
    const name = titled(content, classIn(grid.cells[index]));
    return el("tr", {},
      heading("row", "content", picture(pairs.contentPictures[content]), name),
      grid.cells[index].map((pair, place) => gridCell(pair, name, styles[place])));
  });
  const complete = grid.contents.length === grid.allContents && grid.styles.length === grid.allStyles;
  byId("table-note").textContent = complete
    ? "Each row is a content image, each column a style. Open a picture for details."
    : `Each row is a content image, each column a style: ${grid.contents.length} of ${count(grid.allContents, "content image")} and ${grid.styles.length} of ${count(grid.allStyles, "style")}. Open a picture for details.`;
  byId("table-body").append(
    el("table", { class: `grid-table${styles.length > 5 ? " many" : ""}` },
      el("thead", {},
        el("tr", {},
          el("td", { class: "corner" }),
          grid.styles.map((style, place) => heading("col", "style", picture(pairs.stylePictures[style]), styles[place])))),
      el("tbody", {}, rows)));
}
