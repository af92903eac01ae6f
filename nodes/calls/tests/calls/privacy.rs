//! No log, at any level, contains dialled digits, the caller's identity or the PIN.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

use crate::kit::{Node, PIN, establish, hang_up};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_number_name_or_pin_is_logged() {
    let log = Log::default();
    // Without the time: its digits could match any number, even the PIN.
    let to_log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(log.clone());
    to_log.with_ansi(false).without_time().init();
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let private = |text: String| {
        text.replace("<sip:2001@pbx.example>", "\"Quentin Quire\" <sip:+4930777123@pbx.example>")
            .replace("<sip:2001@", "<sip:+4930777123@")
    };
    // A message, a refusal, garbage, a sign-in with a PIN by INFO: all paths that log.
    for target in ["sip:1001@vm.example", "sip:5550987654@vm.example", "sip:*98@vm.example"] {
        let mut dialog = raw.dialog(&format!("p{}", target.len()));
        dialog.target = target.to_owned();
        let response = raw.ask(private(dialog.invite())).await;
        if response.code == 200 {
            let ack = private(dialog.answered(&response));
            raw.send(ack.as_bytes()).await;
            for digit in format!("1001#864209753#{PIN}#").chars() {
                let info = dialog.request("INFO", "application/dtmf", &digit.to_string());
                assert_eq!(raw.ask(private(info)).await.code, 200);
            }
            let bye = private(dialog.request("BYE", "", ""));
            assert_eq!(raw.ask(bye).await.code, 200);
        }
    }
    let mut dialog = raw.dialog("broken");
    raw.ask(private(dialog.request("DANCE", "", ""))).await;
    raw.send(b"INVITE sip:+4930777123@vm SIP/2.0\r\nFrom: +4930777123\r\n\r\n").await;
    let mut plain = raw.dialog("last");
    establish(&mut raw, &mut plain).await;
    hang_up(&mut raw, &mut plain).await;
    node.idle().await;
    node.calls.shutdown().await;

    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("call answered") && text.contains("node=a") && text.contains("call="), "{text}");
    for secret in ["4930777123", "Quire", "5550987654", "864209753", PIN, "sip:"] {
        let found: Vec<_> = text.lines().filter(|l| l.contains(secret)).collect();
        assert!(found.is_empty(), "{secret} is in the log: {found:?}");
    }
}
