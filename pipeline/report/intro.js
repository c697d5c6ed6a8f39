// The top of the page: title, notices, figures, a strip of pictures.

const { counts, lastRun } = data;
const recorded = counts.ok + counts.error;
const made = counts.ok - counts.originals; // the others are copies of their content images

function notice(kind, ...children) {
  byId("notices").append(el("p", { class: `notice ${kind}` }, ...children));
}

function showIntro() {
  byId("name").textContent = data.title ?? data.output.name;
  const { styles, contents } = pairs;
  byId("lead").textContent = [
    count(counts.ok, "picture"),
    ...(pairs.count < recorded ? [] : [ // else the page knows but a sample of them
      `from ${count(contents.names.length, "content image")}`,
      `in ${count(styles.names.length, "style")}`,
    ]),
    `· ${data.output.uri}`,
  ].join(" ");
  for (const { name, digest, note, count: many } of data.weights) {
    if (note === null) continue;
    notice(
      "weights",
      el("strong", {}, "Not the network of the paper."),
      data.weights.length > 1 ? ` ${count(many, "pair")}:` : "",
      " A trained network judges content and style. Here it was ",
      el("code", {}, name),
      `, ${note} (digest ${digest.slice(0, 12)}); the paper uses VGG-19 trained on ImageNet.`,
    );
  }
  if (counts.rows && recorded < counts.rows) {
    notice(
      "warn",
      el("strong", {}, `${whole.format(recorded)} of ${whole.format(counts.rows)} pairs are recorded.`),
      " The job is still at work or was stopped; the same command does the rest.",
    );
  }
  if (pairs.count < recorded) {
    notice(
      "warn",
      el("strong", {}, `This page lists ${whole.format(pairs.count)} of ${whole.format(recorded)} pairs:`),
      " errors, the lowest and highest losses, and a random sample. The loss curve and the chart of the time for one picture are over the pairs listed, all other figures over all pairs.",
    );
  }
  const failed = Object.entries(data.unreadable);
  if (failed.length) {
    const classes = failed.map(([name, number]) => `${name}: ${number}`).join(", ");
    const sum = failed.reduce((all, [, number]) => all + number, 0);
    notice("warn", `${count(sum, "picture")} could not be read for thumbnails (${classes}).`);
  }
}

function tileOf(name, value, note, kind) {
  return el("div", { class: kind }, el("dt", {}, name), el("dd", {}, el("b", {}, value), el("span", {}, note)));
}

function showTiles() {
  const final = data.curve && data.curve.median[data.curve.median.length - 1];
  const tiles = [
    tileOf("Pictures", whole.format(counts.ok), counts.originals ? `${whole.format(counts.originals)} of them originals, as they were` : `of ${count(recorded, "pair")}`),
    tileOf("Errors", whole.format(counts.error), counts.error ? `${percent(counts.error / recorded)} of the pairs` : "none", counts.error ? "bad" : null),
  ];
  if (made) {
    const total = Object.values(data.seconds).reduce((sum, value) => sum + value, 0);
    tiles.push(tileOf("Time for one picture", duration(total / made), "read, optimise and write it"));
  }
  if (lastRun) {
    const finished = Date.parse(lastRun.finished_at) / 1000;
    tiles.push(tileOf("Last run", duration(lastRun.seconds), `${count(lastRun.pairs, "pair")}${finished ? `, ended ${time(finished)}` : ""}`));
  }
  if (final) tiles.push(tileOf("Loss left", percent(final), "of what it was at first (median)"));
  byId("tiles").replaceChildren(...tiles);
}

// A strip of results across the page, where there is no table to show them.
function showFrieze() {
  const chosen = everyPair.filter(hasPicture);
  const frieze = byId("frieze");
  frieze.hidden = chosen.length < 6 || gridHasPictures();
  if (frieze.hidden) return;
  const wanted = Math.min(9, chosen.length);
  const spread = Array.from({ length: wanted }, (_, index) => chosen[Math.floor((index * chosen.length) / wanted)]);
  frieze.replaceChildren(...spread.map((pair) => el("img", { src: resultPicture(pair), alt: "" })));
}
