//! Shared by the tests: sample mails, and Python as an independent reader.

use std::{
    fs::OpenOptions,
    io::Write,
    process::{Command, Stdio},
};

use twinbox_mail::{
    Address,
    compose::{Attachment, Notice},
    incoming::{Importance, Sensitivity},
    vpim::{VCard, VoiceMessage},
};

/// The system's own Python: the one that has Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

pub fn address(text: &str) -> Address {
    Address::parse(text).expect(text)
}

pub fn notice() -> Notice {
    Notice {
        from: address("voicemail@twinbox.example"),
        from_name: "Twinbox".to_owned(),
        to: address("ann@example.org"),
        subject: "New message from +1 555 1234".to_owned(),
        text: "You have a new message.\nLength: 12 s\n".to_owned(),
        message_id: "m1@twinbox.example".to_owned(),
        date_unix: 1_057_982_437,
        audio: None,
        auto_submitted: true,
        importance: Importance::Normal,
        sensitivity: Sensitivity::None,
    }
}

pub fn attachment() -> Attachment {
    Attachment {
        file_name: "message.wav".to_owned(),
        content_type: "audio/wav".to_owned(),
        bytes: (0..=255).cycle().take(3_000).collect(),
    }
}

pub fn voice_message() -> VoiceMessage {
    VoiceMessage {
        from: address("+15551234@vm.example"),
        from_name: "Ann O'Neil".to_owned(),
        to: vec![address("+15559876@other.example"), address("+15550000@other.example")],
        message_id: "v1@vm.example".to_owned(),
        date_unix: 1_057_982_437,
        subject: "Voice message".to_owned(),
        audio: (0..=255).cycle().take(20_000).collect(),
        duration_s: 5,
        spoken_name: Some(vec![0x55; 4_001]),
        vcard: Some(VCard {
            name: "Ann O'Neil".to_owned(),
            tel: "+15551234".to_owned(),
            email: "+15551234@vm.example".to_owned(),
        }),
        importance: Importance::High,
        sensitivity: Sensitivity::Private,
        request_receipt: true,
    }
}

/// Texts that try to become header fields, parameters or parts.
pub const HOSTILE: [&str; 22] = [
    "",
    " ",
    "a\r\nBcc: evil@example.org",
    "a\nBcc: evil@example.org\n\n<html>",
    "a\rBcc: evil@example.org",
    "\r\n\r\nbody",
    "a\r\n b",
    "a\0b",
    "\u{85}\u{2028}Bcc: evil@example.org",
    "=?utf-8?Q?=0D=0ABcc:_evil@example.org?=",
    "=?utf-8?B?",
    "\"quoted\" \\ and \"more",
    "<evil@example.org>",
    "evil@example.org, other@example.org",
    "a;b=c; filename=\"x",
    "(comment) and )",
    "--=_boundary--",
    "two  spaces and a trailing one ",
    "Jörg Müller 電話 📞",
    "\u{202e}gnp.wav",
    "Content-Type: text/html",
    ".",
];

/// Whether Python can import these modules. If not, the test is skipped with a line that names what is missing; under
/// `CI=true`, where nothing may be skipped, it fails.
pub fn has_python(modules: &str, package: &str) -> bool {
    let import = Command::new(PYTHON).args(["-c", &format!("import {modules}")]).stderr(Stdio::null()).status();
    if import.is_ok_and(|status| status.success()) {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("not run: needs {package} ({test})");
    println!("{line}");
    if let Some(path) = std::env::var_os("TWINBOX_NOT_RUN") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("TWINBOX_NOT_RUN names a writable file");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}: nothing is left out under CI=true");
    false
}

/// Output of a Python script that reads `input`.
pub fn python(script: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new(PYTHON)
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("python3 reads");
    let output = child.wait_with_output().expect("python3 ends");
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
