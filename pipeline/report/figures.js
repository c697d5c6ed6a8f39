// The charts of all pairs: loss and speed.

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
    `After ${count(all.evaluations[index], "evaluation")}: ${percent(all.median[index])} of the first loss left, in eight pairs of ten between ${percent(all.low[index])} and ${percent(all.high[index])}`;
  const resting = words(line.length - 1);
  const host = el("div", { class: "chart" });
  const readout = el("p", { class: "readout" }, resting);
  const chosen = [...new Set(Array.from({ length: 9 }, (_, index) => Math.round((index * (line.length - 1)) / 8)))];
  byId("loss-body").append(
    el("p", { class: "note" }, `The loss tells how far a picture is from its aim, the content of one image in the style of another: lower is better. An evaluation computes it once and improves the picture a little. Here each pair's loss is a share of its first one, over ${count(all.pairs, "pair")}: the line is the median, the band holds the middle 80%.${scales > 1 ? " Pictures are first made small, then refined at full size, where the loss may rise for a moment." : ""}`),
    el("div", { class: "panel" }, host, readout,
      el("details", {}, el("summary", {}, "Show it as a table"),
        table("Share of the first loss", ["After evaluations", "10%", "Median", "90%"],
          chosen.map((index) => [whole.format(all.evaluations[index]), percent(all.low[index]), percent(all.median[index]), percent(all.high[index])])))),
    el("div", { class: "panel" }, el("h3", {}, "Why the work on a picture ended"),
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

const STAGES = {
  load: ["Read", "fetch the images and resize them"],
  optimize: ["Optimise", "improve the picture, evaluation by evaluation"],
  store: ["Write", "encode the picture and save it"],
};

// How fast the last run with several pairs was; null if it is not known.
function pace(runs) {
  const sum = (numbers) => numbers.reduce((all, number) => all + number, 0);
  for (const { first, last, ok, error } of [...runs].reverse()) {
    const many = sum(ok) + sum(error);
    if (many > 1 && last > first) return { many, seconds: last - first, each: (last - first) / (many - 1) };
  }
  return null;
}

function paceText(runs) {
  const known = pace(runs);
  if (!known) return "";
  const { many, seconds: taken, each } = known;
  const hourly = 3600 / each;
  const left = counts.rows - recorded;
  const rate = `The last ${count(many, "pair")} were finished within ${duration(taken)}: one every ${duration(each)}, ${whole.format(hourly)} an hour.`;
  return left > 0 ? `${rate} At this pace the remaining ${count(left, "pair")} take ${duration(left * each)}.` : rate;
}

function showProgress(body) {
  const { runs, width } = data.throughput;
  const text = paceText(runs);
  const several = runs.length > 1 ? `${runs.length} runs follow one another; the pauses between them are left out.` : "";
  body.append(el("p", { class: "note" }, [text, several].filter(Boolean).join(" ")));
  if (recorded < 2) return;
  const host = el("div", { class: "chart" });
  const span = runs.map((run) => `${time(run.start)} to ${time(run.start + run.ok.length * width)}`);
  progressChart(host, data.throughput, `Chart of the pictures finished over time, ${span.join("; ")}. ${text}`);
  body.append(el("figure", { class: "panel" }, el("h3", {}, "Pictures finished so far"), host,
    counts.error ? el("figcaption", {}, "The red line counts errors.") : null));
}

function showSeconds(body) {
  const total = Object.values(data.seconds).reduce((sum, value) => sum + value, 0) || 1;
  const stages = Object.entries(data.seconds);
  const strip = el("div", { class: "strip", "aria-hidden": "true" });
  for (const [name, value] of stages) {
    const part = el("span", { class: name });
    part.style.setProperty("flex-grow", String(value / total));
    strip.append(part);
  }
  const values = everyPair.filter(isStylized).map(seconds).filter((value) => value > 0).sort((a, b) => a - b);
  const [least, most] = [values[0], values[values.length - 1]];
  const panel = el("div", { class: "panel" }, el("h3", {}, "Time for one picture"));
  if (values.length > 2 && most > least) {
    const host = el("div", { class: "chart" });
    const middle = values[Math.floor(values.length / 2)];
    const text = `From ${duration(least)} to ${duration(most)}, half of them within ${duration(middle)}`;
    secondsChart(host, values, `Chart of how many pictures took how long. ${text}.`);
    panel.append(el("figure", {}, host, el("figcaption", {}, text)));
  }
  panel.append(strip,
    facts(stages.map(([name, value]) => [
      el("span", { class: `key ${name}` }, STAGES[name][0]),
      [`${duration(value / made)} (${percent(value / total)}) `, el("span", { class: "soft" }, STAGES[name][1])],
    ])));
  body.append(panel);
}

function showSpeed() {
  const body = byId("speed-body");
  if (!data.throughput.runs.length) {
    body.append(el("p", { class: "note" }, "Nothing was finished yet."));
    return;
  }
  showProgress(body);
  if (made) showSeconds(body);
}
