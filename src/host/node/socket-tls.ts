// SPDX-License-Identifier: Apache-2.0
//
// TLS for sockets that begin in plain text, as NBD's STARTTLS wants: node:tls over an existing
// connection. Certificates (X.509) and pre-shared keys may be offered together. TLS 1.2 is the least,
// as the NBD specification says.
//
// A pre-shared key in TLS 1.3 must be allowed the 128-bit suites: keys of GnuTLS's psktool are bound to
// SHA-256, which TLS_AES_128_GCM_SHA256 and TLS_CHACHA20_POLY1305_SHA256 use.

import type { Socket as NetSocket } from "node:net";
import { connect, createSecureContext, type PeerCertificate, TLSSocket } from "node:tls";
import type { TlsServerSettings } from "../sockets.ts";

/** What TLS made of a connection. */
export interface Secured {
  readonly stream: TLSSocket;
  readonly certificateName: string | undefined;
  readonly pskIdentity: string | undefined;
  readonly protocol: string;
}

const CIPHERS_WITH_PSK = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:HIGH:PSK+HIGH";

export function startTlsServer(plain: NetSocket, settings: TlsServerSettings): Promise<Secured> {
  let pskIdentity: string | undefined;
  const hasKeys = settings.presharedKeys.size > 0;
  const secureContext = createSecureContext({
    minVersion: "TLSv1.2",
    // Pre-shared keys count as resumed sessions, which OpenSSL wants labelled once it asks for certificates.
    sessionIdContext: "varve",
    ...(settings.certificate === undefined ? {} : { cert: settings.certificate }),
    ...(settings.key === undefined ? {} : { key: settings.key }),
    ...(settings.authorities === undefined ? {} : { ca: settings.authorities }),
    ...(hasKeys ? { ciphers: CIPHERS_WITH_PSK } : {}),
  });
  const options = {
    isServer: true,
    secureContext,
    requestCert: settings.clientCertificate !== "none",
    // Judged below, when it is known whether a key was used instead.
    rejectUnauthorized: false,
    ...(hasKeys
      ? {
          pskCallback: (_socket: TLSSocket, identity: string) => {
            const key = settings.presharedKeys.get(identity);
            if (key === undefined) return null;
            pskIdentity = identity;
            return key;
          },
        }
      : {}),
  };
  const stream = new TLSSocket(plain, options);
  return new Promise((resolve, reject) => {
    const failed = (error?: Error): void => {
      stream.destroy();
      reject(error ?? new Error("the client hung up during the TLS handshake"));
    };
    stream.once("error", failed);
    stream.once("close", failed);
    stream.once("secure", () => {
      stream.removeListener("error", failed);
      stream.removeListener("close", failed);
      const certificate = stream.getPeerCertificate();
      const hasCertificate = certificate !== null && Object.keys(certificate).length > 0;
      const refusal = judge(settings, {
        stream,
        hasCertificate,
        hasKey: pskIdentity !== undefined,
      });
      if (refusal !== undefined) {
        stream.once("error", () => {}); // it is over either way
        stream.destroy();
        reject(new Error(refusal));
        return;
      }
      resolve({
        stream,
        certificateName: hasCertificate ? commonName(certificate) : undefined,
        pskIdentity,
        protocol: stream.getProtocol() ?? "TLS",
      });
    });
  });
}

/** Why the client isn't let in, or undefined. A pre-shared key proves who it is as a certificate does. */
function judge(
  settings: TlsServerSettings,
  proved: { stream: TLSSocket; hasCertificate: boolean; hasKey: boolean },
): string | undefined {
  if (proved.hasKey || settings.clientCertificate === "none") return undefined;
  if (!proved.hasCertificate) {
    if (settings.clientCertificate === "optional") return undefined;
    return "no client certificate, and one is required";
  }
  const error: unknown = (
    proved.stream as { ssl?: { verifyError?: () => Error | null } }
  ).ssl?.verifyError?.();
  return error instanceof Error ? `client certificate not valid: ${error.message}` : undefined;
}

function commonName(certificate: PeerCertificate): string | undefined {
  const name: unknown = certificate.subject?.CN;
  return typeof name === "string" ? name : undefined;
}

/** What the client's side of TLS needs. */
export interface TlsClientSettings {
  /** Name that the server's certificate must carry; needed with authorities. */
  readonly serverName?: string;
  readonly authorities?: string;
  readonly certificate?: string;
  readonly key?: string;
  readonly presharedKey?: { readonly identity: string; readonly key: Uint8Array };
}

export function startTlsClient(plain: NetSocket, settings: TlsClientSettings): Promise<TLSSocket> {
  const psk = settings.presharedKey;
  const stream = connect({
    socket: plain,
    minVersion: "TLSv1.2",
    ...(settings.serverName === undefined ? {} : { servername: settings.serverName }),
    ...(settings.authorities === undefined ? {} : { ca: settings.authorities }),
    ...(settings.certificate === undefined ? {} : { cert: settings.certificate }),
    ...(settings.key === undefined ? {} : { key: settings.key }),
    ...(psk === undefined
      ? {}
      : {
          ciphers: CIPHERS_WITH_PSK,
          pskCallback: () => ({ identity: psk.identity, psk: psk.key }),
          checkServerIdentity: () => undefined, // the key is the proof
        }),
  });
  return new Promise((resolve, reject) => {
    stream.once("error", reject);
    stream.once("secureConnect", () => {
      stream.removeListener("error", reject);
      resolve(stream);
    });
  });
}
