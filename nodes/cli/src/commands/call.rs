//! `twinbox call URI`: a test phone.

use std::{path::Path, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_phone::{CallOptions, Codec, Phone, PhoneConfig, Transport};
use twinbox_rtp::wav::{self, Wav};

use crate::output;
use twinbox_admin_client::CliError;
use twinbox_cli_args::CallArgs;

/// The pause after each touch tone.
const DIGIT_GAP: Duration = Duration::from_millis(100);

/// Maximum length of a call without `--duration`, and of one that plays a file: a greeting comes first.
const LISTENING: Duration = Duration::from_secs(10);
const PLAYING: Duration = Duration::from_secs(60);

/// Silence after which the greeting is over. Greetings have shorter pauses, and the tone follows within less.
const GREETING_OVER: Duration = Duration::from_millis(700);

/// Pause after the played file before the phone hangs up.
const AFTER_PLAYING: Duration = Duration::from_millis(500);

/// Calls, speaks, sends digits, records, and reports.
pub async fn run(json: bool, args: CallArgs) -> Result<(), CliError> {
    let speech = args.play.as_deref().map(read_wav).transpose()?;
    let transport = if args.tcp { Transport::Tcp } else { Transport::Udp };
    let phone = Phone::bind(PhoneConfig::new(args.bind, transport))
        .await
        .map_err(|e| CliError::Failed(format!("cannot open a SIP socket on {}: {e}", args.bind)))?;
    let mut options =
        CallOptions { from: Some(format!("<sip:{}@{}>", args.from, args.bind)), ..Default::default() };
    if let Some(number) = &args.diversion {
        options = options.header("Diversion", &format!("<sip:{number}@{}>;reason=no-answer", args.bind));
    }
    let call = phone.call(args.uri.as_str(), options).await.map_err(|e| match e.status {
        400 => CliError::Usage(e.to_string()),
        _ => CliError::failed(e),
    })?;
    let began = BootInstant::now();
    let at_most = args.duration.unwrap_or(if speech.is_some() { PLAYING } else { LISTENING });
    tokio::select! {
        () = talk(&call, &args, speech.as_ref(), at_most) => {}
        _ = call.ended() => {}
        () = tokio::time::sleep(at_most) => {}
    }
    // A BYE after the other side's is answered `481`, which says nothing about a message.
    let hung_up = match call.has_ended() {
        Some(_) => None,
        None => call.bye().await.ok().filter(|(status, _)| *status != 481),
    };
    let stats = call.stats();
    let received = call.received();
    if let Some(path) = &args.record {
        std::fs::write(path, wav::write(call.codec(), &received))
            .map_err(|e| CliError::Failed(format!("cannot write {}: {e}", path.display())))?;
    }
    let loss = 100.0 * stats.lost as f64 / (stats.received + stats.lost).max(1) as f64;
    let ms = |d: Duration| d.as_secs_f64() * 1_000.0;
    if json {
        output::json(&serde_json::json!({
            "answered_by": call.peer().to_string(),
            "answer_ms": ms(call.answer_time()),
            "talked_ms": ms(began.elapsed()),
            "bye_status": hung_up.map(|(status, _)| status),
            "bye_ms": hung_up.map(|(_, time)| ms(time)),
            "codec": format!("{:?}", call.codec()),
            "packets_sent": stats.sent,
            "packets_received": stats.received,
            "packets_lost": stats.lost,
            "loss_percent": loss,
            "jitter_ms": stats.jitter_ms,
            "heard_ms": received.len() / 8,
        }))?;
        return check_bye(hung_up);
    }
    let (answer, talked) = (ms(call.answer_time()), began.elapsed().as_secs_f64());
    println!("answered by {} in {answer:.1} ms, talked {talked:.1} s", call.peer());
    println!(
        "sent {} packets, received {} (lost {}, {loss:.1} %), jitter {:.1} ms",
        stats.sent, stats.received, stats.lost, stats.jitter_ms
    );
    match hung_up {
        Some((status, time)) => println!("hung up: {status} after {:.1} ms", ms(time)),
        None => println!("the other side hung up"),
    }
    check_bye(hung_up)
}

/// A response other than `200` to the BYE means that the message is not stored (rule A1).
fn check_bye(hung_up: Option<(u16, Duration)>) -> Result<(), CliError> {
    match hung_up {
        Some((status, _)) if status != 200 => {
            Err(CliError::Failed(format!("the BYE was answered {status}: a message was not acknowledged")))
        }
        _ => Ok(()),
    }
}

/// Sends digits, then speech once the greeting is over. Returns after the speech if `--duration` is not given.
async fn talk(call: &twinbox_phone::Call, args: &CallArgs, speech: Option<&Wav>, at_most: Duration) {
    for part in args.digits.as_deref().unwrap_or_default().split_inclusive(',') {
        // The phone skips a digit that the negotiated transport cannot carry; the report shows the received audio.
        let _ = call.send_digits(part.trim_end_matches(','), DIGIT_GAP).await;
        if part.ends_with(',') {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    if let Some(speech) = speech {
        call.wait_silence(0, GREETING_OVER, at_most).await;
        call.send_audio(speech.to_g711(call.codec())).await;
        if args.duration.is_none() {
            return tokio::time::sleep(AFTER_PLAYING).await;
        }
    }
    std::future::pending::<()>().await;
}

fn read_wav(path: &Path) -> Result<Wav, CliError> {
    let bytes = std::fs::read(path).map_err(|e| CliError::Usage(format!("cannot read {}: {e}", path.display())))?;
    let wav = Wav::read(&bytes).map_err(|e| CliError::Usage(format!("{}: {e}", path.display())))?;
    // A file without audio is refused before the call.
    if wav.to_g711(Codec::Pcmu).is_empty() {
        return Err(CliError::Usage(format!("{} has no sound in it", path.display())));
    }
    Ok(wav)
}
