//! Self-check: real calls that prove that a message survives the node that took it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_clock::BootInstant;
use twinbox_phone::{Call, CallOptions, Codec, Phone, PhoneConfig, Target, Transport};
use twinbox_prompts::Prompts;
use twinbox_rtp::wav::Wav;
use twinbox_wire::admin::{MessageListRequest, MessageRequest, UserAddRequest, UserListRequest, UserSetPinRequest};

use super::{cluster::Cluster, plan::User};

/// Timeout of the phone for each expected sound.
const AUDIO_TIMEOUT: Duration = Duration::from_secs(40);
/// Pause between the tone and the first word.
const BREATH: Duration = Duration::from_millis(300);
/// Number of the caller.
const CALLER: &str = "5550100";
const DIGIT_GAP: Duration = Duration::from_millis(60);
/// Speech of the demo's caller, made by `make-speech` in this folder.
const SPEECH: &[u8] = include_bytes!("speech.wav");

/// Runs all steps and prints each with its duration.
pub async fn run(cluster: &mut Cluster) -> Result<(), CliError> {
    let prompts = Prompts::load(None, "en").map_err(CliError::failed)?;
    let mut speech = Wav::read(SPEECH).map_err(CliError::failed)?.to_g711(Codec::Pcmu);
    // Whole packets, so that received audio can be compared bit for bit.
    speech.truncate(speech.len() / 160 * 160);
    let speech = Bytes::from(speech);
    let beep = prompts.beep(Codec::Pcmu);
    let [a, b] = [sip_address(cluster, 0)?, sip_address(cluster, 1)?];
    let user = cluster.demo.users[0].clone();

    step("two nodes and a witness are in service", cluster.wait_in_service(0)).await?;
    let users = cluster.demo.users.clone();
    let socket = cluster.socket(0)?.to_owned();
    step("ten users exist, 1001 to 1010", add_users(&socket, &users)).await?;
    let older = clear_earlier(&socket, &user).await?;
    step("a call to node a leaves a message for 1001, acknowledged on two", leave(a, &user, &beep, &speech))
        .await?;
    step("node a is killed (kill -9)", async { cluster.kill(0) }).await?;
    step("node b plays the message, bit for bit as recorded", retrieve(b, &user, older, &speech)).await?;
    step("node a is started again and in service", async {
        cluster.start_one(0)?;
        cluster.wait_in_service(1).await?;
        cluster.wait_in_service(0).await
    })
    .await
}

/// Prints a step with its duration, or its failure.
async fn step<T>(what: &str, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let began = BootInstant::now();
    match work.await {
        Ok(value) => {
            println!("  ok    {:>7.2} s  {what}", began.elapsed().as_secs_f64());
            Ok(value)
        }
        Err(error) => {
            println!("  FAIL  {:>7.2} s  {what}", began.elapsed().as_secs_f64());
            Err(CliError::Failed(format!("the step '{what}' failed: {error}")))
        }
    }
}

fn sip_address(cluster: &Cluster, i: usize) -> Result<SocketAddr, CliError> {
    let address = cluster.process(i).addresses.sip_udp.as_deref().unwrap_or_default();
    address.parse().map_err(CliError::failed)
}

/// Adds missing users; all have the PINs in `demo.json`.
async fn add_users(socket: &Path, users: &[User]) -> Result<(), CliError> {
    let mut node = client::connect(socket).await?;
    let existing = pages::all(async |after| node.user_list(UserListRequest { limit: pages::AS_FIT, after }).await);
    let existing = existing.await?;
    for User { number, name, pin } in users.iter().cloned() {
        if existing.iter().any(|user| user.number == number) {
            node.user_set_pin(UserSetPinRequest { number, pin, must_change: false }).await?;
        } else {
            node.user_add(UserAddRequest { number, name, pin, ..Default::default() }).await?;
        }
    }
    Ok(())
}

/// Deletes the messages of an earlier demo, and counts the new messages of real callers, which are played first.
async fn clear_earlier(socket: &Path, user: &User) -> Result<usize, CliError> {
    let mut node = client::connect(socket).await?;
    let messages = pages::all(async |after| {
        let number = user.number.clone();
        node.message_list(MessageListRequest { number, limit: pages::AS_FIT, after }).await
    });
    let mut messages = messages.await?;
    messages.retain(|message| message.state != "deleted");
    for message in messages.iter().filter(|message| message.caller == CALLER) {
        node.message_delete(MessageRequest { number: user.number.clone(), id: message.id.clone() }).await?;
    }
    Ok(messages.iter().filter(|message| message.caller != CALLER && message.state == "new").count())
}

async fn phone() -> Result<Phone, CliError> {
    Phone::bind(PhoneConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Transport::Udp)).await.map_err(CliError::failed)
}

async fn call(phone: &Phone, number: &str, node: SocketAddr, from: &str) -> Result<Call, CliError> {
    let options = CallOptions {
        from: Some(format!("<sip:{from}@127.0.0.1>")),
        codecs: vec![Codec::Pcmu],
        ..Default::default()
    };
    phone.call(Target::user(number, node), options).await.map_err(CliError::failed)
}

async fn leave(node: SocketAddr, user: &User, beep: &Bytes, speech: &Bytes) -> Result<(), CliError> {
    let phone = phone().await?;
    let call = call(&phone, &user.number, node, CALLER).await?;
    // The greeting has begun; the rest is skipped, as any caller may do.
    call.wait_received(4_000, AUDIO_TIMEOUT).await;
    call.send_digits("#", DIGIT_GAP).await.map_err(CliError::failed)?;
    call.wait_for_audio(beep, 0, AUDIO_TIMEOUT)
        .await
        .ok_or_else(|| CliError::Failed("no tone was received after the greeting".to_owned()))?;
    // Callers do not speak during the tone.
    tokio::time::sleep(BREATH).await;
    call.send_audio(speech.clone()).await;
    match call.bye().await.map_err(CliError::failed)? {
        (200, _) => Ok(()),
        (status, _) => Err(CliError::Failed(format!(
            "the BYE was answered {status}, not 200: the message is not acknowledged (is the machine or its disk busy?)"
        ))),
    }
}

async fn retrieve(node: SocketAddr, user: &User, older: usize, speech: &Bytes) -> Result<(), CliError> {
    let phone = phone().await?;
    let call = call(&phone, "*97", node, &user.number).await?;
    call.wait_received(8_000, AUDIO_TIMEOUT).await;
    call.send_digits(&format!("{}#", user.pin), DIGIT_GAP).await.map_err(CliError::failed)?;
    let menu = call.received().len();
    call.wait_received(menu + 8_000, AUDIO_TIMEOUT).await;
    call.send_digits("1", DIGIT_GAP).await.map_err(CliError::failed)?;
    for _ in 0..older {
        // Skip to the next message after this one has begun.
        call.wait_received(call.received().len() + 8_000, AUDIO_TIMEOUT).await;
        call.send_digits("6", DIGIT_GAP).await.map_err(CliError::failed)?;
    }
    // Skip the time and caller, directly to the message.
    call.wait_received(call.received().len() + 4_000, AUDIO_TIMEOUT).await;
    call.send_digits("5", DIGIT_GAP).await.map_err(CliError::failed)?;
    let heard = call.wait_for_audio(speech, 0, AUDIO_TIMEOUT).await;
    // The message stays for the next user of the demo; a failed BYE does not change the result.
    let _ = call.bye().await;
    heard.map(|_| ()).ok_or_else(|| {
        CliError::Failed(format!(
            "the message was not in the {:.1} s of received audio",
            call.received().len() as f64 / 8_000.0
        ))
    })
}
