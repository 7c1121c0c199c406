// Scores rows with an exported model: values of the log in, click probabilities out, one per line.
//
//     npm install --ignore-scripts        # the script would download libraries for GPUs
//     node client.mjs model.onnx rows.jsonl
//     node client.mjs model.onnx train.txt --columns label I{1..13} C{1..26}     # a log without a header
//
// The same as client.py, see there. Values of a .tsv, .txt (separated by tabs) or .csv file may not hold quoted delimiters:
// take a CSV library for those, or .jsonl.
import { createReadStream, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import * as ort from "onnxruntime-node";

const BATCH = 512;
const AGENTS = [
  ["windows", "ios", "mac", "android", "linux"],
  ["chrome", "sogou", "maxthon", "safari", "firefox", "theworld", "opera", "ie"],
];
const PRICES = [[0, "0"], [10, "1-10"], [50, "11-50"], [100, "51-100"], [Infinity, "101+"]];

const isBlank = (value) => value === null || value === "" || Number.isNaN(value);

/** A value (text or number; null, "" and NaN are blank) in the form in which the model knows it. */
export function normalise(kind, value) {
  if (isBlank(value)) return "";
  if (kind === "text" && typeof value === "string") return value;
  const exact = typeof value === "string" || Number.isSafeInteger(value);
  const text = String(value);
  if (kind === "text" && exact) return text;
  if (kind === "hex32" && /^[0-9a-fA-F]{8}$/.test(text)) return text.toLowerCase();
  const integer = /^(-?)0*([0-9]{1,16})(\.0*)?$/.exec(text);
  if (kind === "integer" && exact && integer) return Number(text) === 0 ? "0" : integer[1] + integer[2];
  throw new Error(`${JSON.stringify(value)} is not of kind ${kind}`);
}

/** A dense column's value as the model takes it: NaN where blank. */
export function number(value) {
  if (isBlank(value)) return NaN;
  const found = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
  if (!Number.isFinite(found)) throw new Error(`${JSON.stringify(value)} is not a finite number`);
  return found;
}

/** The row with the columns that the reader of this log makes from others. */
export function derived({ name, options }, row) {
  if (name === "avazu" && options.hour === "of_day") return { ...row, hour: String(row.hour).slice(6) }; // YYMMDDHH
  if (name !== "ipinyou") return row;
  row = Object.fromEntries(Object.entries(row).map(([column, value]) => [column, value === "null" ? "" : value]));
  const time = String(row.timestamp); // yyyyMMddHHmmssSSS
  const day = new Date(`${time.slice(0, 4)}-${time.slice(4, 6)}-${time.slice(6, 8)}T00:00:00Z`);
  const agent = (row.useragent ?? "").replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return {
    ...row,
    weekday: day.getUTCDay(),
    hour: time.slice(8, 10),
    useragent: AGENTS.map((names) => names.find((name) => agent.includes(name)) ?? "other").join("_"),
    slotprice: PRICES.find(([most]) => Number(row.slotprice) <= most)[1],
  };
}

/** What an ONNX file says of itself under a key; onnxruntime-node has no call for it. */
export function metadata(bytes, key) {
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(value);
    }
  };
  const field = () => { // of a protocol buffer: its number, and where its bytes begin and end
    const tag = varint();
    const size = { 0: () => (varint(), 0), 1: () => 8, 2: varint, 5: () => 4 }[tag & 7]();
    at += size;
    return [tag >>> 3, at - size, at];
  };
  while (at < bytes.length) {
    const [id, start, end] = field();
    if (id !== 14) continue; // metadata_props, pairs of key (1) and value (2)
    const pair = {};
    for (at = start; at < end; ) {
      const [part, from, to] = field();
      pair[part] = bytes.toString("utf8", from, to);
    }
    if (pair[1] === key) return pair[2];
  }
  throw new Error(`no metadata ${key}: not a model that ctr exported`);
}

export class Model {
  static async load(path, threads = 1) {
    const model = new Model();
    model.about = JSON.parse(metadata(readFileSync(path), "ctr"));
    model.session = await ort.InferenceSession.create(path, { intraOpNumThreads: threads });
    return model;
  }

  /** Click probabilities of rows of the log: objects from column to value. */
  async predict(rows) {
    const made = rows.map((row) => derived(this.about.dataset, row));
    const feed = {};
    for (const { name, kind, form } of this.about.inputs) {
      const column = made.map((row) => {
        if (row[name] === undefined) throw new Error(`no column ${name}; expected ${form}`);
        try {
          return kind === "number" ? number(row[name]) : normalise(kind, row[name]);
        } catch (error) {
          throw new Error(`column ${name}: ${error.message}; expected ${form}`);
        }
      });
      feed[name] =
        kind === "number"
          ? new ort.Tensor("float64", Float64Array.from(column), [rows.length, 1])
          : new ort.Tensor("string", column, [rows.length, 1]);
    }
    return (await this.session.run(feed)).probability.data;
  }
}

async function* read(path, columns) {
  const delimiter = path.endsWith(".csv") ? "," : "\t";
  for await (const line of createInterface({ input: createReadStream(path, "utf8"), crlfDelay: Infinity })) {
    if (path.endsWith(".jsonl")) {
      yield JSON.parse(line);
      continue;
    }
    const values = line.split(delimiter);
    if (columns === undefined) columns = values;
    else if (values.length !== columns.length) throw new Error(`${values.length} columns; expected ${columns.length}`);
    else yield Object.fromEntries(columns.map((name, i) => [name, values[i]]));
  }
}

async function main([path, rows, flag, ...columns]) {
  if (rows === undefined || (flag !== undefined && flag !== "--columns")) {
    throw new Error("expected: node client.mjs MODEL ROWS [--columns NAME ...]");
  }
  const model = await Model.load(path);
  let batch = [];
  const print = async () => {
    if (batch.length) for (const p of await model.predict(batch)) console.log(Number(p.toPrecision(9)));
    batch = [];
  };
  for await (const row of read(rows, flag && columns)) if (batch.push(row) === BATCH) await print();
  await print();
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
