// Charts as SVG, as wide as their container; they are drawn again when its width changes.

const MARGIN = { top: 12, right: 14, bottom: 38, left: 52 };

function responsive(host, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(host.clientWidth);
    if (now === width || now < 40) return;
    width = now;
    host.replaceChildren(draw(width));
  }).observe(host);
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const digit of high - low < 2.5 ? [1, 2, 5] : [1]) {
      const value = digit * 10 ** power;
      if (Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9) ticks.push(value);
    }
  }
  return ticks;
}

// The smallest of 1, 2, 5 and 10 times a power of ten that is at least the value.
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((digit) => digit * power >= value * (1 - 1e-9)) * power;
}

function evenTicks(most, wanted) {
  const step = niceStep(most / wanted);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, index) => index * step);
}

// Ticks of something that is counted: whole numbers only.
const countTicks = (most, wanted) => [...new Set(evenTicks(most, wanted).map(Math.ceil))];

function frame({ width, height, label, xTicks, yTicks, xText, yText, xTitle }) {
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    yTicks.map(([value, y]) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y }),
      svg("text", { class: "tick", x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, yText(value)),
    ]),
    xTicks.map(([value, x]) =>
      svg("text", { class: "tick", x, y: bottom + 18, "text-anchor": "middle" }, xText(value)),
    ),
    svg("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { class: "tick title", x: right, y: height - 3, "text-anchor": "end" }, xTitle),
  );
}

// Loss over evaluations. line: [[x, y], ...]; band: [[x, low, high], ...] or null.
function lossChart(host, { line, band, label, format, readout, height = 260 }) {
  const values = [...line.map(([, y]) => y), ...(band ?? []).flatMap(([, low, high]) => [low, high])];
  const logs = values.filter((value) => value > 0).map(Math.log10);
  const low = Math.min(...logs);
  const high = Math.max(...logs, low + 0.05);
  const most = line[line.length - 1][0];
  responsive(host, (width) => {
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const toX = (value) => MARGIN.left + ((value - 1) / Math.max(most - 1, 1)) * (right - MARGIN.left);
    const toY = (value) =>
      bottom - ((Math.log10(value) - low) / (high - low)) * (bottom - MARGIN.top);
    const path = (points) => points.map(([x, y]) => `${toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join("L");
    const chart = frame({
      width,
      height,
      label,
      xTicks: countTicks(most, Math.max(2, width / 110))
        .map((value) => Math.max(1, value))
        .map((value) => [value, toX(value)]),
      yTicks: logTicks(low, high).map((value) => [value, toY(value)]),
      xText: (value) => whole.format(value),
      yText: format,
      xTitle: "evaluations",
    });
    if (band) {
      const upper = band.map(([x, , top]) => [x, top]);
      const lower = band.map(([x, under]) => [x, under]).reverse();
      chart.append(svg("path", { class: "band", d: `M${path(upper)}L${path(lower)}Z` }));
    }
    chart.append(svg("path", { class: "line", d: `M${path(line)}` }));
    const cross = svg("line", { class: "cross", y1: MARGIN.top, y2: bottom, hidden: true });
    const dot = svg("circle", { class: "dot", r: 4, hidden: true });
    chart.append(cross, dot);
    chart.addEventListener("pointermove", (event) => {
      const at = event.clientX - chart.getBoundingClientRect().left;
      const nearest = line.reduce((best, point, index) =>
        Math.abs(toX(point[0]) - at) < Math.abs(toX(line[best][0]) - at) ? index : best, 0);
      const [x, y] = line[nearest];
      fill(cross, { x1: toX(x), x2: toX(x) }, []).removeAttribute("hidden");
      fill(dot, { cx: toX(x), cy: toY(y) }, []).removeAttribute("hidden");
      readout(nearest);
    });
    chart.addEventListener("pointerleave", () => {
      cross.setAttribute("hidden", "");
      dot.setAttribute("hidden", "");
      readout(null);
    });
    return chart;
  });
}

// A loss curve in the size of a word; the numbers are in the text next to it.
function sparkline(line) {
  if (line.length < 2) return null;
  const [width, height] = [72, 20];
  const logs = line.map(([, y]) => Math.log10(y));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const most = line[line.length - 1][0] - 1;
  const points = line.map(([x], index) => {
    const y = 2 + (1 - (logs[index] - low) / (high - low || 1)) * (height - 4);
    return `${(((x - 1) / most) * width).toFixed(1)},${y.toFixed(1)}`;
  });
  return svg(
    "svg",
    { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    svg("path", { class: "line", d: `M${points.join("L")}` }),
  );
}

// Seconds between two times of day that are easy to read.
const ROUND_TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

// Pairs finished so far, over time, as stairs; runs follow one another with a gap between them.
function progressChart(host, { width: interval, runs }, label) {
  const height = 240;
  const intervals = runs.reduce((sum, run) => sum + run.ok.length, 0);
  const sum = (numbers) => numbers.reduce((all, number) => all + number, 0);
  const most = Math.max(1, ...[runs.map((run) => sum(run.ok)), runs.map((run) => sum(run.error))].map(sum));
  const last = runs[runs.length - 1];
  const days = last.start + last.ok.length * interval - runs[0].start > 86400;
  const format = new Intl.DateTimeFormat("en-GB", {
    ...(days ? { day: "numeric", month: "short" } : {}),
    hour: "2-digit",
    minute: "2-digit",
    ...(interval < 10 ? { second: "2-digit" } : {}),
  });
  responsive(host, (width) => {
    const gap = Math.min(18, (width - MARGIN.left - MARGIN.right) / 2 / runs.length);
    const step = (width - MARGIN.left - MARGIN.right - gap * (runs.length - 1)) / intervals;
    const bottom = height - MARGIN.bottom;
    const toY = (value) => bottom - (value / most) * (bottom - MARGIN.top);
    const apart = (days ? 116 : 84) / step; // least number of intervals between two ticks
    const every = ROUND_TIMES.find((round) => round >= apart * interval) ?? Math.ceil(apart) * interval;
    const xTicks = [];
    const drawn = [];
    const done = { ok: 0, error: 0 };
    let before = 0;
    runs.forEach((run, number) => {
      const left = MARGIN.left + before * step + number * gap;
      for (const name of ["ok", "error"]) {
        const stairs = [];
        const from = done[name];
        run[name].forEach((many, index) => {
          done[name] += many;
          const y = toY(done[name]).toFixed(1);
          stairs.push(`V${y}H${(left + (index + 1) * step).toFixed(1)}`);
        });
        if (name === "error" && done.error === 0) continue;
        const line = `M${left.toFixed(1)},${toY(from).toFixed(1)}${stairs.join("")}`;
        if (name === "ok") {
          drawn.push(svg("path", { class: "band", d: `${line}V${bottom}H${left.toFixed(1)}Z` }));
        }
        drawn.push(svg("path", { class: name === "ok" ? "line" : "line error", d: line }));
      }
      const end = run.start + run.ok.length * interval;
      for (let at = Math.ceil(run.start / every) * every; at <= end; at += every) {
        const x = left + ((at - run.start) / interval) * step;
        if (!xTicks.length || x - xTicks[xTicks.length - 1][1] > apart * step * 0.9) xTicks.push([at, x]);
      }
      before += run.ok.length;
    });
    const chart = frame({
      width,
      height,
      label,
      xTicks,
      yTicks: countTicks(most, 4).map((value) => [value, toY(value)]),
      xText: (value) => format.format(new Date(1000 * value)),
      yText: (value) => whole.format(value),
      xTitle: "time of day",
    });
    chart.append(...drawn);
    return chart;
  });
}

// How many pictures took how long. values: seconds, sorted.
function secondsChart(host, values, label) {
  const height = 200;
  const low = values[0];
  // A few very slow pictures share the last bar, or all others would share the first.
  const usual = values[Math.floor(0.98 * (values.length - 1))];
  const high = values[values.length - 1] > 2 * usual ? usual : values[values.length - 1];
  const step = niceStep(Math.max(high - low, high / 20, 0.01) / 12);
  const first = Math.floor(low / step);
  const bars = new Array(Math.floor(high / step) - first + 1).fill(0);
  for (const value of values) bars[Math.min(bars.length - 1, Math.floor(value / step) - first)] += 1;
  const most = Math.max(...bars);
  const open = values[values.length - 1] > high;
  responsive(host, (width) => {
    const wide = (width - MARGIN.left - MARGIN.right) / bars.length;
    const bottom = height - MARGIN.bottom;
    const toX = (index) => MARGIN.left + index * wide;
    const toY = (value) => bottom - (value / most) * (bottom - MARGIN.top);
    const every = Math.max(1, Math.ceil(56 / wide));
    const edges = Array.from({ length: bars.length + 1 }, (_, index) => index);
    const chart = frame({
      width,
      height,
      label,
      xTicks: edges.filter((index) => index % every === 0).map((index) => [index, toX(index)]),
      yTicks: countTicks(most, 3).map((value) => [value, toY(value)]),
      xText: (index) => plain.format((first + index) * step),
      yText: (value) => whole.format(value),
      xTitle: "seconds for one picture",
    });
    bars.forEach((many, index) => {
      if (!many) return;
      const [from, to] = [first + index, first + index + 1].map((edge) => plain.format(edge * step));
      const range = open && index === bars.length - 1 ? `${from} s and more` : `${from} to ${to} s`;
      const size = { x: toX(index) + 0.5, y: toY(many), width: Math.max(1, wide - 1) };
      chart.append(
        svg("rect", { class: "bar", ...size, height: bottom - toY(many) },
          svg("title", {}, `${range}: ${count(many, "picture")}`)),
      );
    });
    return chart;
  });
}
