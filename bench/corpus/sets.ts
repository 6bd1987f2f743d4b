// SPDX-License-Identifier: Apache-2.0
//
// What the images of the corpus are made of: the same packages again and again, each time in the versions
// of another day. That is what a pool of virtual machines holds, and what backups of it hold: a security
// update changes a tenth of the files, a new release of the distribution most of them, a month of an npm
// project something between. pin.ts turns these names into the versions and checksums of manifest.tsv.

/** The archive's suites, by the name of the directory below dists/. */
export const SUITES = [
  "bookworm",
  "bookworm-updates",
  "bookworm-security",
  "bookworm-backports",
  "trixie",
  "trixie-security",
  "sid",
] as const;
export type Suite = (typeof SUITES)[number];

interface DebianImage {
  readonly name: string;
  readonly suites: readonly Suite[];
  /** Which version, where the suites have several. */
  readonly pick: "oldest" | "newest";
  readonly packages: readonly string[];
}

/** A machine of a company: daemons, tools, a kernel. The kernel's modules are not compressed. */
const SERVER =
  `libc6 libc-bin bash coreutils perl-base openssl systemd udev util-linux tar curl git vim
  locales tzdata nginx apache2-bin redis-server openssh-server openssh-client sudo rsync samba samba-libs
  python3-django nodejs qemu-system-x86 qemu-utils bind9 bind9-libs postfix exim4-daemon-heavy
  squid haproxy tor unbound dovecot-core linux-libc-dev passwd tmux knot
  proftpd-core mutt nmap weechat-core python3-tornado subversion wget slapd cups`.split(/\s+/);

/** A desk: large programs and libraries, icons, translations. */
const DESKTOP =
  `libreoffice-core libreoffice-common libwebkit2gtk-4.1-0 libjavascriptcoregtk-4.1-0 gimp poppler-data
  libgtk-3-common xterm xserver-xorg-core gnome-shell`.split(/\s+/);

const BOOKWORM: readonly Suite[] = ["bookworm", "bookworm-updates", "bookworm-security"];
const TRIXIE: readonly Suite[] = ["trixie", "trixie-security"];

/** In the order in which they are stored: as the machines were updated. */
export const DEBIAN_IMAGES: readonly DebianImage[] = [
  server("server-1-bookworm-old", BOOKWORM, "oldest", "linux-image-6.1.0-47-cloud-amd64"),
  server("server-2-bookworm-updated", BOOKWORM, "newest", "linux-image-6.1.0-56-cloud-amd64"),
  server("server-3-trixie", TRIXIE, "newest", "linux-image-6.12.117+deb13-cloud-amd64"),
  server("server-4-sid", ["sid"], "newest"),
  desktop("desktop-1-bookworm-old", BOOKWORM, "oldest"),
  desktop("desktop-2-bookworm-updated", BOOKWORM, "newest"),
  desktop("desktop-3-trixie", TRIXIE, "newest"),
  desktop("desktop-4-sid", ["sid"], "newest"),
];

/**
 * An npm project's node_modules after each of four updates, the steps growing. By version, not by day: the
 * days that a registry's mirror gives are not always those of the release.
 */
export const NPM_PACKAGES: Readonly<Record<string, readonly string[]>> = {
  typescript: ["5.4.4", "5.4.5", "5.6.3", "5.9.3"],
  next: ["14.1.4", "14.2.0", "14.2.13", "14.2.35"],
  "react-dom": ["18.2.0", "18.2.0", "18.3.1", "19.1.0"],
  "aws-sdk": ["2.1654.0", "2.1655.0", "2.1675.0", "2.1692.0"],
  webpack: ["5.100.0", "5.100.1", "5.103.0", "5.109.0"],
  lodash: ["4.17.20", "4.17.21", "4.17.21", "4.17.23"],
  "core-js": ["3.36.0", "3.36.1", "3.39.0", "3.46.0"],
  eslint: ["9.29.0", "9.30.0", "9.36.0", "10.0.0"],
  prettier: ["3.2.5", "3.3.0", "3.4.2", "3.6.2"],
  rollup: ["4.16.2", "4.16.3", "4.22.0", "4.29.2"],
  rxjs: ["7.8.0", "7.8.1", "7.8.1", "7.8.2"],
  "date-fns": ["3.3.0", "3.3.1", "3.6.0", "4.1.0"],
  mathjs: ["12.4.0", "12.4.1", "13.2.0", "14.4.0"],
  "@angular/compiler": ["17.2.0", "17.2.1", "17.3.5", "17.3.12"],
  "@babel/core": ["7.24.0", "7.24.1", "7.25.2", "7.28.0"],
  "@babel/parser": ["7.26.0", "7.26.1", "7.27.0", "7.28.5"],
  "@babel/traverse": ["7.25.0", "7.25.1", "7.26.3", "7.28.0"],
  "@babel/types": ["7.25.0", "7.25.2", "7.26.3", "7.28.1"],
  "@babel/preset-env": ["7.24.0", "7.24.1", "7.25.3", "7.28.0"],
  "@esbuild/linux-x64": ["0.20.1", "0.20.2", "0.21.5", "0.23.1"],
  "@swc/core-linux-x64-gnu": ["1.5.24", "1.5.25", "1.6.13", "1.7.42"],
};

function server(
  name: string,
  suites: readonly Suite[],
  pick: "oldest" | "newest",
  ...kernel: string[]
): DebianImage {
  return { name, suites, pick, packages: [...SERVER, ...kernel] };
}

function desktop(name: string, suites: readonly Suite[], pick: "oldest" | "newest"): DebianImage {
  return { name, suites, pick, packages: DESKTOP };
}
