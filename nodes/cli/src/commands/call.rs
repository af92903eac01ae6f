//! `twinbox call URI`: a test phone.

use std::{path::Path, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_phone::{Call, CallError, CallOptions, Codec, Phone, PhoneConfig, Transport};
use twinbox_rtp::{
    dtmf,
    wav::{self, Wav},
};

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
    let mut keys = args.digits.iter().flat_map(|digits| digits.chars()).filter(|key| *key != ',');
    if let Some(other) = keys.find(|key| dtmf::code(*key).is_none()) {
        let keys = "0-9 * # A-D, and ',' to wait a second";
        return Err(CliError::Usage(format!("--digits: '{other}' is no key: use {keys}")));
    }
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
    let talked = tokio::select! {
        talked = talk(&call, &args, speech.as_ref(), at_most) => talked,
        _ = call.ended() => Ok(()),
        () = tokio::time::sleep(at_most) => Ok(()),
    };
    // A BYE after the other side's is answered `481`, which says nothing about a message.
    let bye = match call.has_ended() {
        Some(_) => Ok(None),
        None => call.bye().await.map(|answer| Some(answer).filter(|(status, _)| *status != 481)),
    };
    let hung_up = bye.as_ref().ok().copied().flatten();
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
        return check(&bye, talked);
    }
    let (answer, seconds) = (ms(call.answer_time()), began.elapsed().as_secs_f64());
    println!("answered by {} in {answer:.1} ms, talked {seconds:.1} s", call.peer());
    println!(
        "sent {} packets, received {} (lost {}, {loss:.1} %), jitter {:.1} ms",
        stats.sent, stats.received, stats.lost, stats.jitter_ms
    );
    match &bye {
        Ok(Some((status, time))) => println!("hung up: {status} after {:.1} ms", ms(*time)),
        Ok(None) => println!("the other side hung up"),
        Err(_) => println!("hung up: no answer"),
    }
    check(&bye, talked)
}

/// No response to the BYE, or another than `200`, means that no message is known to be stored (rule A1).
fn check(bye: &Result<Option<(u16, Duration)>, CallError>, talked: Result<(), CallError>) -> Result<(), CliError> {
    let failed = match bye {
        Ok(None | Some((200, _))) => {
            return talked.map_err(|e| CliError::Failed(format!("digits were not sent: {e}")));
        }
        Ok(Some((status, _))) => format!("the BYE was answered {status}"),
        Err(error) => format!("the BYE was not answered ({error})"),
    };
    Err(CliError::Failed(format!("{failed}: a message was not acknowledged")))
}

/// Sends digits, then speech once the greeting is over. Returns after the speech if `--duration` is not given, and at digits
/// that the call does not carry.
async fn talk(call: &Call, args: &CallArgs, speech: Option<&Wav>, at_most: Duration) -> Result<(), CallError> {
    match call.send_digits(args.digits.as_deref().unwrap_or_default(), DIGIT_GAP).await {
        // The other side has hung up.
        Err(error) if error.status == 481 => {}
        sent => sent?,
    }
    if let Some(speech) = speech {
        call.wait_silence(0, GREETING_OVER, at_most).await;
        call.send_audio(speech.to_g711(call.codec())).await;
        if args.duration.is_none() {
            tokio::time::sleep(AFTER_PLAYING).await;
            return Ok(());
        }
    }
    std::future::pending().await
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

#[cfg(test)]
#[path = "../../tests/unit/call.rs"]
mod tests;
