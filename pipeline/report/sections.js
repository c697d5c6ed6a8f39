// Everything around the gallery: title, figures, charts, errors, settings.

const { counts, lastRun } = data;
const recorded = counts.ok + counts.error;

function notice(kind, ...children) {
  byId("notices").append(el("p", { class: `notice ${kind}` }, ...children));
}

function showIntro() {
  byId("name").textContent = data.output.name;
  const { styles, contents } = pairs;
  byId("lead").textContent = [
    `${count(recorded, "pair")}`,
    `${count(contents.names.length, "content image")}`,
    `${count(styles.names.length, "style")}`,
    data.output.uri,
  ].join(" · ");
  for (const { name, digest, note, count: made } of data.weights) {
    if (note === null) continue;
    const part = data.weights.length > 1 ? ` ${count(made, "pair")}:` : "";
    notice(
      "weights",
      el("strong", {}, "Not ImageNet weights."),
      `${part} The weights are `,
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
      " errors, the lowest and highest losses, and a sample by lot. The figures and the errors' counts are over all; the loss curves are over the pairs listed.",
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
    tileOf("Pictures", whole.format(counts.ok), `of ${count(recorded, "pair")}`),
    tileOf("Errors", whole.format(counts.error), counts.error ? `${percent(counts.error / recorded)} of the pairs` : "none", counts.error ? "bad" : null),
  ];
  if (final) tiles.push(tileOf("Loss left", percent(final), "of the first, median"));
  if (counts.ok) {
    const total = Object.values(data.seconds).reduce((sum, value) => sum + value, 0);
    tiles.push(tileOf("A picture takes", duration(total / counts.ok), "load, optimise, store"));
  }
  if (lastRun && lastRun.pairs) {
    tiles.push(tileOf("Last run", duration(lastRun.seconds), `${plain.format(lastRun.pairs_per_minute)} pairs a minute`));
  }
  byId("tiles").replaceChildren(...tiles);
}

// A strip of results, for the eye.
function showFrieze() {
  const chosen = everyPair.filter(hasPicture);
  const frieze = byId("frieze");
  frieze.hidden = chosen.length < 6;
  if (frieze.hidden) return;
  const wanted = Math.min(9, chosen.length);
  const spread = Array.from({ length: wanted }, (_, index) => chosen[Math.floor((index * chosen.length) / wanted)]);
  frieze.replaceChildren(...spread.map((pair) => el("img", { src: resultPicture(pair), alt: "" })));
}

function table(caption, heads, rows) {
  return el(
    "table",
    {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map(([first, ...cells]) =>
      el("tr", {}, el("th", { scope: "row" }, first), cells.map((cell) => el("td", {}, cell))))),
  );
}

function showLoss() {
  const { curve: all } = data;
  if (!all || all.evaluations.length < 2) {
    byId("loss-body").append(el("p", { class: "note" }, "There is no loss to draw yet."));
    return;
  }
  const scales = Number(data.settings.find((setting) => setting.name === "scales")?.value ?? 1);
  const line = all.evaluations.map((x, index) => [x, all.median[index]]);
  const band = all.evaluations.map((x, index) => [x, all.low[index], all.high[index]]);
  const words = (index) =>
    `After ${count(all.evaluations[index], "evaluation")}: median ${percent(all.median[index])}, eight pairs of ten between ${percent(all.low[index])} and ${percent(all.high[index])}`;
  const resting = words(line.length - 1);
  const host = el("div", { class: "chart" });
  const readout = el("p", { class: "readout" }, resting);
  const chosen = [...new Set(Array.from({ length: 9 }, (_, index) => Math.round((index * (line.length - 1)) / 8)))];
  byId("loss-body").append(
    el("p", { class: "note" }, `Loss as a share of each pair's first, over ${count(all.pairs, "pair")}, on a logarithmic scale: the line is the median, the band holds the middle 80%. A pair that stopped early keeps its last loss.${scales > 1 ? " It rises where the next, finer scale begins." : ""}`),
    el("div", { class: "panel" }, host, readout,
      el("details", {}, el("summary", {}, "The same as a table"),
        table("Share of the first loss", ["After evaluations", "10%", "Median", "90%"],
          chosen.map((index) => [whole.format(all.evaluations[index]), percent(all.low[index]), percent(all.median[index]), percent(all.high[index])])))),
    el("div", { class: "panel" }, el("h3", {}, "Why pairs stopped"),
      facts(data.stops.map(([name, number]) => [stopText(name), count(number, "pair")]))),
  );
  lossChart(host, {
    line,
    band,
    label: `Chart of the loss. ${resting}.`,
    format: percent,
    readout: (index) => {
      readout.textContent = index === null ? resting : words(index);
    },
  });
}

const STAGES = { load: "Load", optimize: "Optimise", store: "Store" };

function showSpeed() {
  const body = byId("speed-body");
  const { runs, width } = data.throughput;
  if (!runs.length) {
    body.append(el("p", { class: "note" }, "Nothing was finished yet."));
    return;
  }
  const host = el("div", { class: "chart" });
  const span = runs.map((run) => `${time(run.start)} to ${time(run.start + run.ok.length * width)}`);
  const unit = throughputChart(host, data.throughput, `Chart of the pairs finished over time, ${span.join("; ")}`);
  const several = runs.length > 1 ? ` ${runs.length} runs stand side by side; the pauses between them are left out.` : "";
  body.append(
    el("p", { class: "note" }, `Finished ${unit}, in stretches of ${duration(width)}; times are yours.${several}`),
    el("figure", { class: "panel" }, host),
  );
  if (!counts.ok) return;
  const total = Object.values(data.seconds).reduce((sum, value) => sum + value, 0) || 1;
  const stages = Object.entries(data.seconds);
  const strip = el("div", { class: "strip", "aria-hidden": "true" });
  for (const [name, value] of stages) {
    const part = el("span", { class: name });
    part.style.setProperty("flex-grow", String(value / total));
    strip.append(part);
  }
  body.append(
    el("div", { class: "panel" }, el("h3", {}, "Seconds a picture"), strip,
      facts(stages.map(([name, value]) => [el("span", { class: `key ${name}` }, STAGES[name]), `${duration(value / counts.ok)} (${percent(value / total)})`]))),
  );
}

function showErrors() {
  const body = byId("errors-body");
  if (!data.errors.length) {
    body.append(el("p", { class: "note" }, "No pair ended as an error."));
    return;
  }
  body.append(el("p", { class: "note" }, el("code", {}, "--retry-errors"), " does these pairs again."));
  for (const { name, count: number, examples } of data.errors) {
    body.append(
      el("div", { class: "panel failure" },
        el("h3", {}, el("code", {}, name), ` ${count(number, "pair")}`),
        el("ul", {}, examples.map(({ id, message }) => {
          const pair = column.id?.indexOf(id) ?? -1;
          const named = pair < 0 ? el("b", {}, id) : el("button", { type: "button", class: "plain", click: () => openDetail(pair) }, id);
          return el("li", {}, named, el("span", {}, message));
        })),
        number > examples.length
          ? el("button", { type: "button", click: () => showOnly(`error:${name}`) }, `Show all in the gallery`)
          : null),
    );
  }
}

function showOnly(status) {
  setFilters({ status });
  byId("gallery-title").focus();
  byId("gallery").scrollIntoView();
}

function showSettings() {
  const changed = data.settings.filter((setting) => setting.default !== null);
  const others = data.settings.filter((setting) => setting.default === null);
  const name = (setting) => el("code", { title: setting.help }, setting.name);
  const { job } = data;
  const body = byId("settings-body");
  if (changed.length) {
    body.append(el("div", { class: "panel scroll" }, table("Other than the defaults", ["Setting", "Value", "Default"],
      changed.map((setting) => [name(setting), setting.value, setting.default]))));
  }
  body.append(el("details", {}, el("summary", {}, changed.length ? "The settings left at their defaults" : "All settings, at their defaults"),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings at their defaults" },
      table("At their defaults", ["Setting", "Value", "What it is"],
        others.map((setting) => [name(setting), setting.value, setting.help])))));
  const versions = data.versions.flatMap(({ versions: each, count: number }) =>
    Object.entries(each).map(([key, value]) => [
      data.versions.length > 1 ? `${key} (${count(number, "pair")})` : key, value ?? "none"]));
  body.append(el("div", { class: "panel split" },
    el("div", {}, el("h3", {}, "Made with"), facts([
      ...data.weights.map((weights) => ["Weights", `${weights.name} (digest ${weights.digest.slice(0, 16)})`]),
      ...data.devices.map(([device, number]) => ["Device", `${device}, ${count(number, "pair")}`]),
      ["Fingerprint", job.fingerprint],
      ["Manifest", job.manifest],
      ["Last start", job.started_at],
    ])),
    el("div", {}, el("h3", {}, "Versions"), facts(versions))));
}

showIntro();
showTiles();
showFrieze();
if (pairs.count) {
  initDetail();
  initGallery();
  readState();
} else {
  byId("gallery").hidden = true;
}
byId("pictured").textContent =
  pictured < done
    ? `${whole.format(pictured)} of ${whole.format(done)} pictures have thumbnails in this page; the others link to their image files, which lie beside this page in the output.`
    : "Content above, style below, the result on the right. Open a pair for its loss curve and a slider between content and result.";
showLoss();
showSpeed();
showErrors();
showSettings();
byId("made").textContent = `Made ${time(data.madeAt)} from the records in ${data.output.uri}. This page asks nothing of any network.`;
