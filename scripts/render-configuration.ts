// SPDX-License-Identifier: Apache-2.0
//
// docs/guides/configuration.md from the settings table: every key with its default, its limits and the
// reason for both. A tidy test compares it with what it should be; UPDATE=1 makes it rewrite the guide.

import {
  environmentName,
  SETTING_NAMES,
  SETTINGS,
  type SettingName,
  type SettingRow,
} from "../src/api/settings.ts";
import { formatDuration, spellSize } from "../src/base/units.ts";

const TYPES: Readonly<Record<SettingRow["type"], string>> = {
  path: "text",
  size: "size",
  duration: "time",
  count: "number",
  choice: "one of",
  list: "list",
  switch: "true or false",
};

export function renderConfiguration(): string {
  return `# Configuration

Generated from \`src/api/settings.ts\`; don't edit.

\`varve serve\` takes its settings from three places, and each setting has one name in all of them:

| place | how | example |
|---|---|---|
| flag | \`--NAME VALUE\` | \`--pool-size 500G\` |
| environment | \`VARVE_NAME\` | \`VARVE_POOL_SIZE=500G\` |
| file (\`--config FILE\`, TOML) | \`NAME = VALUE\` | \`pool-size = "500G"\` |

A flag wins over the environment, the environment over the file, the file over the default. A key that
isn't known is an error with the nearest known one as its hint, and nothing is started. Sizes are binary
(\`10G\` is 10 GiB; \`10GB\` could mean either and is refused), times are a number and one of \`ms s m h d w\`.
What holds now is in \`varve info\`.

    # /etc/varve.toml
    pool = "/var/lib/varve"
    memory = "2G"
    pool-size = "500G"
    listen = "10.0.0.5:10809"
    tls = "required"
    tls-certificate = "/etc/varve/server.pem"
    tls-key = "/etc/varve/server.key"
    tls-ca = "/etc/varve/clients.pem"

    [exports.db]
    allow = ["certificate:database", "uid:1000"]

    [exports."*"]
    allow = ["address:10.0.0.0/8"]

## Keys

| key | value | default | what it does |
|---|---|---|---|
${SETTING_NAMES.map(tableRow).join("\n")}

## Why these defaults

${SETTING_NAMES.map((name) => `- \`${name}\`: ${SETTINGS[name].reason}`).join("\n")}

## Who may open which volume

Without a table \`[exports.NAME]\` everybody who can connect may open a volume. With one, a client must be let
in by one of the entries of \`allow\`; an entry is one or more conditions, all of which must hold:

| condition | true for |
|---|---|
| \`address:10.0.0.0/8\` | TCP clients from that network |
| \`uid:1000\` | processes of that user, over the Unix socket |
| \`certificate:NAME\` | TLS clients whose verified certificate has this common name |
| \`psk:NAME\` | TLS clients with this pre-shared key |
| \`everyone\` | alone: all |

\`needs-tls = true\` makes a volume invisible without TLS. \`[exports."*"]\` holds for every volume that has no
table of its own. What can't be known of a client (no certificate, no uid) meets no condition.

## Hooks

\`hook-before-attach\`, \`hook-after-attach\` and \`hook-after-detach\` are programs; they get what is known of
the client in their environment: \`VARVE_EVENT\`, \`VARVE_EXPORT\`, \`VARVE_CLIENT\`, and where they are known
\`VARVE_CLIENT_UID\`, \`VARVE_CLIENT_CERTIFICATE\`, \`VARVE_CLIENT_PSK\`. The client waits for the one before; unless
it ends with 0 within \`hook-timeout\`, the client is refused.
`;
}

function tableRow(name: SettingName): string {
  const row = SETTINGS[name];
  const standard =
    row.standardText ?? (row.standard === undefined ? "none" : `\`${row.standard}\``);
  const help = `${row.help}. \`${environmentName(name)}\``;
  return `| \`${name}\` | ${valueText(row)} | ${standard} | ${help} |`;
}

function valueText(row: SettingRow): string {
  const kind = TYPES[row.type];
  if (row.choices !== undefined) return row.choices.map((choice) => `\`${choice}\``).join(" ");
  const spell = row.type === "size" ? spellSize : row.type === "duration" ? formatDuration : String;
  const limits = [
    row.least === undefined ? undefined : `from ${spell(row.least)}`,
    row.most === undefined ? undefined : `to ${spell(row.most)}`,
  ].filter((limit) => limit !== undefined);
  return [kind, ...limits].join(" ");
}
