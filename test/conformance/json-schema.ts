// SPDX-License-Identifier: Apache-2.0
//
// Holds real answers against the contract's schemas: the part of JSON Schema that the contract uses, and
// an error for a keyword that it doesn't know, so that nothing passes because it was overlooked.

export type Schema = Readonly<Record<string, unknown>>;

const ANNOTATIONS = new Set(["description", "format"]);

/** What is wrong with `value`, one line each: "volumes[0].name: it isn't a string". */
export function violations(schema: Schema, value: unknown, document: Schema, at = "$"): string[] {
  if (typeof schema.$ref === "string") {
    return violations(resolveReference(document, schema.$ref), value, document, at);
  }
  return Object.entries(schema).flatMap(([keyword, rule]) => {
    const why = check(keyword, rule, value);
    if (why !== undefined) return [`${at}: ${why}`];
    if (keyword === "properties" && isObject(value)) {
      return Object.entries(rule as Record<string, Schema>).flatMap(([key, part]) =>
        value[key] === undefined ? [] : violations(part, value[key], document, `${at}.${key}`),
      );
    }
    if (keyword === "additionalProperties" && rule === false && isObject(value)) {
      const known = (schema.properties ?? {}) as Record<string, unknown>;
      const strangers = Object.keys(value).filter((key) => known[key] === undefined);
      return strangers.map((key) => `${at}.${key}: it isn't in the contract`);
    }
    if (keyword === "items" && Array.isArray(value)) {
      return value.flatMap((part, index) =>
        violations(rule as Schema, part, document, `${at}[${index}]`),
      );
    }
    return [];
  });
}

export function resolveReference(document: Schema, reference: string): Schema {
  let found: unknown = document;
  for (const key of reference.replace(/^#\//, "").split("/")) {
    found = (found as Record<string, unknown>)[key];
    if (found === undefined) throw new Error(`"${reference}" leads nowhere`);
  }
  return found as Schema;
}

function check(keyword: string, rule: unknown, value: unknown): string | undefined {
  switch (keyword) {
    case "type":
      return [rule].flat().some((type) => isOfType(String(type), value))
        ? undefined
        : `it isn't of type ${rule}: ${JSON.stringify(value)}`;
    case "enum":
      return (rule as unknown[]).includes(value)
        ? undefined
        : `it is none of ${JSON.stringify(rule)}`;
    case "const":
      return value === rule ? undefined : `it isn't ${rule}`;
    case "required": {
      const missing = (rule as string[]).filter(
        (key) => !isObject(value) || value[key] === undefined,
      );
      return missing.length === 0 ? undefined : `it lacks ${missing.join(", ")}`;
    }
    case "minimum":
      return Number(value) >= Number(rule) ? undefined : `${value} is less than ${rule}`;
    case "maximum":
      return Number(value) <= Number(rule) ? undefined : `${value} is more than ${rule}`;
    case "multipleOf":
      return Number(value) % Number(rule) === 0 ? undefined : `${value} is no multiple of ${rule}`;
    case "maxLength":
      return String(value).length <= Number(rule) ? undefined : `it is longer than ${rule}`;
    case "pattern":
      return new RegExp(String(rule)).test(String(value)) ? undefined : `it doesn't match ${rule}`;
    case "properties":
    case "additionalProperties":
    case "items":
      return undefined;
    default:
      return ANNOTATIONS.has(keyword) ? undefined : `the keyword ${keyword} is not known here`;
  }
}

function isOfType(type: string, value: unknown): boolean {
  switch (type) {
    case "integer":
      return Number.isInteger(value);
    case "array":
      return Array.isArray(value);
    case "object":
      return isObject(value);
    case "null":
      return value === null;
    default:
      return typeof value === type;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
