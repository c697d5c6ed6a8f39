"use strict";

document.documentElement.classList.add("scripted");

// Builders of elements. They take text as text only, never as markup: records may hold anything.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);

const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

const byId = (id) => document.getElementById(id);

// Numbers and times as text.

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const rough = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const count = (number, one, many = `${one}s`) =>
  `${whole.format(number)} ${number === 1 ? one : many}`;

function shown(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2);
  return plain.format(number);
}

const percent = (share) => `${rough.format(100 * share)}%`;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 99.5) return `${rough.format(seconds)}\u00a0s`;
  if (seconds < 5970) return `${rough.format(seconds / 60)}\u00a0min`;
  const hours = seconds / 3600;
  return hours < 48 ? `${rough.format(hours)}\u00a0h` : `${rough.format(hours / 24)}\u00a0days`;
}

const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const time = (seconds) => moment.format(new Date(1000 * seconds));

const baseName = (path) => path.slice(path.lastIndexOf("/") + 1);

// Light, dark, or as the system is set.

function initTheme() {
  const radios = document.querySelectorAll("input[name=theme]");
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    for (const radio of radios) radio.checked = radio.value === theme;
  };
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // A page opened from a file may have no storage.
  }
  apply(["light", "dark"].includes(kept) ? kept : "auto");
  for (const radio of radios) {
    radio.addEventListener("change", () => {
      apply(radio.value);
      try {
        localStorage.setItem("theme", radio.value);
      } catch {
        // Then the choice is not kept.
      }
    });
  }
}

initTheme();
