//! The section `[links]`: recordings by link, over HTTP.

use std::net::SocketAddr;

use twinbox_tls::ServedCertificate;

use super::{mail::read_certificate, reader::Section};

/// Recordings by link.
#[derive(Debug, Clone)]
pub struct LinksConfig {
    /// Address on which the node listens.
    pub bind: SocketAddr,
    /// Certificate of the listener; `None`: clear text, because a proxy has the certificate.
    pub tls: Option<ServedCertificate>,
}

impl LinksConfig {
    /// Reads the section; `None` if it is empty.
    pub(super) fn read(mut section: Section) -> Option<Self> {
        if section.is_empty() {
            return None;
        }
        let bind: Option<SocketAddr> = section.require("bind", "an address and port, such as \"0.0.0.0:8443\"");
        let tls = read_certificate(&mut section);
        let plain = section.flag("plain", false);
        match (&tls, plain) {
            (Ok(None), false) => section.wrong(
                "certificate_file",
                "is missing: give certificate_file and key_file, or plain = true behind a proxy with a certificate",
            ),
            (Ok(Some(_)), true) => section.wrong("plain", "is given beside certificate_file: keep one of them"),
            _ => {}
        }
        section.finish();
        Some(Self { bind: bind?, tls: tls.ok()? })
    }
}
