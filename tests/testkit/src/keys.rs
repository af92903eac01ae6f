//! Keys and certificates of mail servers, made by openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A certificate authority with one mail server, whose certificate can be replaced. Dropping it removes the files.
#[derive(Debug)]
pub struct Authority(TempDir);

/// Validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From 2020 to 2049.
    Valid,
    /// In 2020 only.
    Expired,
}

/// A key for DKIM signatures (RSA, 2048 bits). Dropping it removes the file.
#[derive(Debug)]
pub struct DkimKey(TempDir);

impl Authority {
    /// A new authority, and a key of the server.
    pub fn new() -> Self {
        let authority = Self(folder());
        let base = authority.0.path().display();
        let config = format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {base}/index\nnew_certs_dir = {base}\ncertificate = {base}/ca.pem\n\
             private_key = {base}/ca.key\nrand_serial = yes\ndefault_md = sha256\nunique_subject = no\npolicy = any\n\
             [any]\ncommonName = supplied\n\
             [req]\ndistinguished_name = none\nx509_extensions = authority\n[none]\n\
             [authority]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n"
        );
        fs::write(authority.file("config"), config).expect("the configuration can be written");
        fs::write(authority.file("index"), "").expect("the index can be written");
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
        authority.openssl(
            "req",
            &[&["-x509", "-days", "30", "-subj", "/CN=Test CA"], &key[..]].concat(),
            &[("-keyout", "ca.key"), ("-out", "ca.pem")],
        );
        authority.openssl(
            "req",
            &[&["-new", "-subj", "/CN=server"], &key[..]].concat(),
            &[("-keyout", "server.key"), ("-out", "server.csr")],
        );
        authority
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The server's certificate.
    pub fn server_certificate(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// The server's key.
    pub fn server_key(&self) -> PathBuf {
        self.file("server.key")
    }

    /// Gives the server a certificate for this DNS name, in place of an earlier one.
    pub fn certify(&self, name: &str, validity: Validity) {
        let extensions = format!("basicConstraints = CA:FALSE\nsubjectAltName = DNS:{name}\n");
        fs::write(self.file("extensions"), extensions).expect("the extensions can be written");
        let end = if validity == Validity::Valid { "20490101000000Z" } else { "20210101000000Z" };
        let fixed = ["-batch", "-notext", "-startdate", "20200101000000Z", "-enddate", end];
        self.openssl("ca", &fixed, &[("-in", "server.csr"), ("-extfile", "extensions"), ("-out", "next.pem")]);
        fs::rename(self.file("next.pem"), self.server_certificate()).expect("the certificate can be replaced");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, action: &str, fixed: &[&str], files: &[(&str, &str)]) {
        let mut command = Command::new("openssl");
        command.arg(action).arg("-config").arg(self.file("config")).args(fixed);
        for (option, name) in files {
            command.arg(option).arg(self.file(name));
        }
        run(command);
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl DkimKey {
    /// A new key.
    pub fn new() -> Self {
        let key = Self(folder());
        let mut command = Command::new("openssl");
        command.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"]).arg(key.file());
        run(command);
        key
    }

    /// The private key, in PEM.
    pub fn file(&self) -> PathBuf {
        self.0.path().join("dkim.pem")
    }

    /// The text of its DNS record.
    pub fn record(&self) -> String {
        let mut command = Command::new("openssl");
        command.args(["pkey", "-pubout", "-in"]).arg(self.file());
        let pem = run(command);
        let key: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        format!("v=DKIM1; k=rsa; p={key}")
    }
}

impl Default for DkimKey {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs openssl; returns its output.
fn run(mut command: Command) -> String {
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder that a mail server can enter under its own account.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("twinbox-mail-").tempdir().expect("a temporary folder");
    open_to_all(folder.path());
    folder
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
}
