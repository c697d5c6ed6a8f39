// The data. A pair is a number from 0, its place in every column; filters and sorting give lists of
// such numbers.

const data = JSON.parse(byId("data").textContent);
const pictures = JSON.parse(byId("pictures").textContent);
const { pairs } = data;
const column = pairs.columns;
const everyPair = Array.from({ length: pairs.count }, (_, pair) => pair);

const picture = (number) =>
  number === undefined || number < 0 ? null : `data:image/webp;base64,${pictures[number]}`;

const resultPicture = (pair) => picture(pairs.resultPictures[pair]);
const contentPicture = (pair) => picture(pairs.contentPictures[column.content[pair]]);
const stylePictures = (pair) =>
  column.styles[pair].map((style) => picture(pairs.stylePictures[style]));

const hasPicture = (pair) => pairs.resultPictures[pair] >= 0;
const pictured = everyPair.filter(hasPicture).length;
const done = everyPair.filter((pair) => column.ok[pair]).length;
const partlyPictured = pictured < done && pictured > 0;

const contentUri = (pair) =>
  column.content[pair] < 0
    ? null
    : pairs.contents.folder + pairs.contents.names[column.content[pair]];
const styleUris = (pair) =>
  column.styles[pair].map((style) => pairs.styles.folder + pairs.styles.names[style]);
const contentName = (pair) => baseName(contentUri(pair) ?? "none");
const labelName = (pair) => pairs.labels[column.label[pair]] ?? null;
const splitName = (pair) => pairs.splits[column.split[pair]] ?? null;
const errorName = (pair) => pairs.errors[column.error[pair]] ?? null;

// Names to read: file names without their ending, with as many folders as tell them apart.
function shortNames(paths) {
  const withFolders = (path, folders) => {
    const parts = path.replace(/\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic)$/i, "").split("/");
    return parts.slice(-1 - folders).join("/") || path;
  };
  let names = paths.map((path) => withFolders(path, 0));
  for (const folders of [1, 2, Infinity]) {
    const uses = new Map();
    for (const name of names) uses.set(name, (uses.get(name) ?? 0) + 1);
    names = names.map((name, index) => (uses.get(name) > 1 ? withFolders(paths[index], folders) : name));
  }
  return names;
}

const styleShort = shortNames(pairs.styles.names);
const isOriginal = (pair) => column.ok[pair] && !column.styles[pair].length && column.evaluations[pair] === null;
const isStylized = (pair) => column.ok[pair] && !isOriginal(pair);
const aboutStyle = (pair) => (isOriginal(pair) ? "an original, as it was" : `in the style of ${styleTitle(pair)}`);
const styleTitle = (pair) => column.styles[pair].map((style) => styleShort[style]).join(" + ") || "none";

// A content image is called by its class and file name; without a class, by its file name.
const contentShort = shortNames(pairs.contents.names);
const contentFile = pairs.contents.names.map((path) => shortNames([path])[0]);
const titled = (content, label) => (label === null ? contentShort[content] : `${label} · ${contentFile[content]}`);
const pairTitle = (pair) =>
  column.content[pair] < 0 ? column.id[pair] : titled(column.content[pair], labelName(pair));

const seconds = (pair) => {
  const known = column.seconds[pair].filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
};

// A link into the page's own folder, whatever the record says.
const fileLink = (pair) =>
  column.file[pair] && "./" + column.file[pair].split("/").map(encodeURIComponent).join("/");

// A loss curve as [evaluation, loss] points, unpacked from the logarithms in bytes.
function curve(pair) {
  if (!column.curve[pair]) return [];
  const [low, high] = column.range[pair];
  const steps = Uint8Array.from(atob(column.curve[pair]), (letter) => letter.charCodeAt(0));
  const last = steps.length - 1;
  const most = column.evaluations[pair] - 1;
  return Array.from(steps, (step, index) => [
    most > last ? 1 + Math.floor((index / last) ** 2 * most + 0.5) : 1 + index,
    10 ** (low + ((high - low) * step) / 255),
  ]);
}

// The text that the search looks through, made when it is first used.
let haystacks = null;
function matches(pair, words) {
  haystacks ??= everyPair.map((each) =>
    [column.id[each], contentUri(each), ...styleUris(each), labelName(each), column.message[each]]
      .join("\n")
      .toLowerCase(),
  );
  return words.every((word) => haystacks[pair].includes(word));
}

function filtered(state) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const style = state.style === "" ? null : Number(state.style);
  const label = state.label === "" ? null : Number(state.label);
  const split = state.split === "" ? null : Number(state.split);
  const failure = state.status.startsWith("error:") ? state.status.slice(6) : null;
  return everyPair.filter(
    (pair) =>
      (style === null || column.styles[pair].includes(style)) &&
      (label === null || column.label[pair] === label) &&
      (split === null || column.split[pair] === split) &&
      (state.status !== "ok" || column.ok[pair]) &&
      (state.status !== "error" || !column.ok[pair]) &&
      (failure === null || errorName(pair) === failure) &&
      (!state.only || hasPicture(pair)) &&
      (!words.length || matches(pair, words)),
  );
}

const collator = new Intl.Collator("en", { numeric: true });

// Returns a function that gives each pair's place in the order of a text; sorted on first use.
function placesBy(text) {
  let places = null;
  return (pair) => {
    if (!places) {
      const texts = everyPair.map(text);
      places = new Int32Array(pairs.count);
      [...everyPair]
        .sort((a, b) => collator.compare(texts[a], texts[b]))
        .forEach((each, index) => (places[each] = index));
    }
    return places[pair];
  };
}
const placeByName = placesBy((pair) => `${pairTitle(pair)}\n${styleTitle(pair)}\n${column.id[pair]}`);
const placeById = placesBy((pair) => column.id[pair]);

const SORTS = {
  pictures: { text: "Thumbnails first", key: (pair) => -Number(hasPicture(pair)) },
  name: { text: "Class and name", key: () => 0 },
  id: { text: "Id", key: placeById },
  "loss-up": { text: "Loss, lowest first", key: (pair) => column.loss[pair] },
  "loss-down": { text: "Loss, highest first", key: (pair) => down(column.loss[pair]) },
  "seconds-up": { text: "Time taken, shortest first", key: (pair) => isStylized(pair) ? seconds(pair) : null },
  "seconds-down": { text: "Time taken, longest first", key: (pair) => isStylized(pair) ? down(seconds(pair)) : null },
  newest: { text: "Newest first", key: (pair) => down(column.finished[pair]) },
};

const down = (value) => (value === null ? null : -value);

// Sorts by the key, then by name; pairs without a key come last.
function sorted(found, sort) {
  const keys = new Float64Array(pairs.count);
  for (const pair of found) keys[pair] = SORTS[sort].key(pair) ?? Infinity;
  return found.sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : placeByName(a) - placeByName(b)));
}
