// SPDX-License-Identifier: Apache-2.0
//
// Access lists: who is let in, and what isn't known never counts.

import { equal, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import { type AccessEntry, AccessPolicy, parseNetwork } from "./access.ts";

const TCP = { address: "10.1.2.3:5000", ip: "10.1.2.3" };
const UNIX = { address: "unix:1000", unixUid: 1000 };

function allows(entry: AccessEntry, client: Parameters<AccessPolicy["isAllowed"]>[1]): boolean {
  return new AccessPolicy([{ exportName: "db", allow: [entry] }]).isAllowed("db", client);
}

test("an export without a rule is open to everybody", () => {
  const policy = new AccessPolicy([{ exportName: "other", allow: [] }]);
  equal(policy.isAllowed("db", TCP), true);
  equal(policy.needsTls("db"), false);
});

test("an export whose rule allows nobody is closed, and so are its moments", () => {
  const policy = new AccessPolicy([{ exportName: "db", needsTls: true, allow: [] }]);
  for (const name of ["db", "db@-10m", "db@lsn:7"]) {
    equal(policy.isAllowed(name, TCP), false);
    equal(policy.needsTls(name), true);
  }
  equal(policy.isAllowed("db2", TCP), true);
});

test("the rule * is for every export without one of its own", () => {
  const policy = new AccessPolicy([
    { exportName: "*", allow: [] },
    { exportName: "open", allow: [{}] },
  ]);
  equal(policy.isAllowed("db", TCP), false);
  equal(policy.isAllowed("open", TCP), true);
});

test("an address is met inside its network, and only there", () => {
  for (const [network, ip, isInside] of [
    ["10.1.2.3", "10.1.2.3", true],
    ["10.1.2.3", "10.1.2.4", false],
    ["10.0.0.0/8", "10.255.0.1", true],
    ["10.0.0.0/8", "11.0.0.1", false],
    ["10.1.2.0/23", "10.1.3.9", true],
    ["10.1.2.0/23", "10.1.4.0", false],
    ["0.0.0.0/0", "255.255.255.255", true],
    ["::/0", "10.1.2.3", false],
    ["fd00::/8", "fd12:3456::1", true],
    ["fd00::/8", "fe80::1", false],
    ["::1", "::1", true],
    ["2001:db8::10.0.0.1", "2001:db8::a00:1", true],
    ["fe80::/10", "fe80::1%eth0", true],
  ] as const) {
    equal(
      allows({ address: network }, { address: `${ip}:1`, ip }),
      isInside,
      `${ip} in ${network}`,
    );
  }
});

test("every condition of an entry has to be met", () => {
  const entry = { address: "10.0.0.0/8", certificateName: "backup" };
  equal(allows(entry, { ...TCP, certificateName: "backup" }), true);
  equal(allows(entry, TCP), false);
  equal(allows(entry, { ...UNIX, certificateName: "backup" }), false);
});

test("a uid, a certificate or an identity that isn't known meets nothing", () => {
  equal(allows({ unixUid: 1000 }, UNIX), true);
  equal(allows({ unixUid: 0 }, UNIX), false);
  equal(allows({ unixUid: 0 }, { address: "unix" }), false);
  equal(allows({ certificateName: "" }, TCP), false);
  equal(allows({ pskIdentity: "me" }, { ...TCP, pskIdentity: "me" }), true);
  equal(allows({ pskIdentity: "me" }, TCP), false);
});

test("a uid is only asked for where a rule names one", () => {
  equal(new AccessPolicy([{ exportName: "db", allow: [{ address: "::1" }] }]).isUidNeeded, false);
  equal(new AccessPolicy([{ exportName: "db", allow: [{ unixUid: 1 }] }]).isUidNeeded, true);
});

test("rules that can't be meant are refused", () => {
  for (const address of [
    "10.1.2",
    "10.1.2.256",
    "10.0.0.0/33",
    "::/129",
    "1::2::3",
    "x",
    "",
    "::/",
  ]) {
    throws(
      () => new AccessPolicy([{ exportName: "db", allow: [{ address }] }]),
      (error) => hasCode(error, "CONFIG_INVALID"),
      address,
    );
  }
  throws(() => new AccessPolicy([{ exportName: "db", allow: [{ unixUid: -1 }] }]));
  throws(
    () =>
      new AccessPolicy([
        { exportName: "db", allow: [] },
        { exportName: "db", allow: [{}] },
      ]),
  );
});

test("a network of all of an address's bits is that address", () => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (ip) => {
      equal(allows({ address: ip }, { address: ip, ip }), true);
    }),
  );
});

test("no text breaks the parser of networks", () => {
  fc.assert(fc.property(fc.string(), (text) => parseNetwork(text) === undefined || true));
});
