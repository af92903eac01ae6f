//! Bulk operations on users, imported messages, classes of service and prompts.

mod users;

pub(crate) use users::{addresses, check_fields};

use bytes::{Bytes, BytesMut};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;
use twinbox_admin_kit::{Part, part};
use twinbox_ids::{Pii, Timestamp};
use twinbox_mailbox::{Class, Codec, PromptKey};
use twinbox_mailstore::{Audio, ClassError, Folder, GreetingKind, ImportOutcome, ImportedMessage, Rule};
use twinbox_prompts::Prompts;
use twinbox_wire::admin::{
    self, AudioPart, ClassListReply, ClassListRequest, ClassRequest, ClassRule, GreetingPart, ImportReply,
    MessagePart, Prompt, PromptListReply, PromptListRequest, PromptPart, PromptRequest, UserChanged,
    UserExportRequest, UserImportEvent, UserImportPart,
    provisioning_server::{Provisioning, ProvisioningServer},
};

use crate::{
    AdminHandles,
    admin::{PART, acknowledged, all_records, changed, internal, mail},
};

/// Maximum length of audio, in bytes of G.711: more than two hours.
const LONGEST_AUDIO: usize = 64 << 20;

/// Serves bulk requests.
pub struct ProvisioningService {
    node: AdminHandles,
}

impl ProvisioningService {
    /// Creates the service for this node.
    pub fn new(node: AdminHandles) -> Self {
        Self { node }
    }

    /// Converts it into a service of the administrators' socket.
    pub fn server(self) -> ProvisioningServer<Self> {
        ProvisioningServer::new(self)
    }

    async fn mailbox_id(&self, number: &str) -> Result<twinbox_ids::MailboxId, Status> {
        all_records(&self.node)?;
        let found = self.node.mailstore.find_by_number(number).await.map_err(internal)?;
        let none = || Status::not_found(format!("there is no mailbox {number}: import the users first"));
        Ok(found.ok_or_else(none)?.id)
    }

    /// Prompt of that name in this node's language; only prompts in use have a name.
    fn prompt(&self, name: &str) -> Result<PromptKey, Status> {
        let names = self.node.config.prompts.names();
        if !names.contains(&name) {
            let likely: Vec<_> = nearest(name, &names);
            return Err(Status::invalid_argument(format!(
                "Twinbox plays no prompt '{name}': did you mean {}? `twinbox prompt list --all` shows all names",
                likely.join(", ")
            )));
        }
        PromptKey::new(&self.node.mailstore.live().usual.language, name)
            .ok_or_else(|| Status::invalid_argument(format!("'{name}' is no name of a prompt")))
    }
}

#[tonic::async_trait]
impl Provisioning for ProvisioningService {
    type UserImportStream = ReceiverStream<Result<UserImportEvent, Status>>;

    async fn user_import(
        &self,
        request: Request<Streaming<UserImportPart>>,
    ) -> Result<Response<Self::UserImportStream>, Status> {
        all_records(&self.node)?;
        Ok(Response::new(users::import(self.node.clone(), request.into_inner())))
    }

    type UserExportStream = tokio_stream::Iter<std::vec::IntoIter<Result<AudioPart, Status>>>;

    async fn user_export(&self, _: Request<UserExportRequest>) -> Result<Response<Self::UserExportStream>, Status> {
        all_records(&self.node)?;
        let table = Bytes::from(users::export(&self.node).await?);
        let parts: Vec<_> = (0..table.len())
            .step_by(PART)
            .map(|at| Ok(AudioPart { data: table.slice(at..table.len().min(at + PART)) }))
            .collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn greeting_import(
        &self,
        request: Request<Streaming<GreetingPart>>,
    ) -> Result<Response<ImportReply>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.header);
        let header = first.ok_or_else(|| Status::invalid_argument("the first part carries the header"))?;
        let kind = match header.kind.as_str() {
            "standard" => GreetingKind::Standard,
            "busy" => GreetingKind::Busy,
            "temporary" => GreetingKind::Temporary,
            "name" => GreetingKind::Name,
            kind => return Err(Status::invalid_argument(format!("there is no greeting '{kind}'"))),
        };
        let codec = codec(&header.codec)?;
        let bytes = gather(parts, LONGEST_AUDIO, |part| part.audio).await?;
        let id = self.mailbox_id(&header.number).await?;
        let outcome = self.node.mailstore.import_greeting(id, kind, Audio { codec, bytes }).await.map_err(mail)?;
        Ok(Response::new(reply(String::new(), &outcome)))
    }

    async fn message_import(
        &self,
        request: Request<Streaming<MessagePart>>,
    ) -> Result<Response<ImportReply>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.header);
        let header = first.ok_or_else(|| Status::invalid_argument("the first part carries the header"))?;
        let folder = match header.state.as_str() {
            "new" => Folder::New,
            "heard" => Folder::Heard,
            "saved" => Folder::Saved,
            state => return Err(Status::invalid_argument(format!("a message is not '{state}'"))),
        };
        let codec = codec(&header.codec)?;
        let bytes = gather(parts, LONGEST_AUDIO, |part| part.audio).await?;
        if bytes.is_empty() {
            return Err(Status::invalid_argument("the message has no audio"));
        }
        let some = |text: String| Some(text).filter(|text| !text.is_empty()).map(Pii::new);
        let message = ImportedMessage {
            mailbox: self.mailbox_id(&header.number).await?,
            received: Timestamp(header.received_ms),
            caller: some(header.caller),
            caller_name: some(header.caller_name),
            folder,
            cause: header.cause,
            audio: Audio { codec, bytes },
        };
        let (id, outcome) = self.node.mailstore.import_message(message).await.map_err(mail)?;
        Ok(Response::new(reply(id.to_string(), &outcome)))
    }

    async fn class_add(&self, request: Request<ClassRequest>) -> Result<Response<UserChanged>, Status> {
        let ClassRequest { name, rules } = request.into_inner();
        let (id, acknowledgement) = self.node.mailstore.add_class(&name, read(&rules)?).await.map_err(class)?;
        info!(cos = %name, "administrator adds class of service");
        Ok(changed(id, &acknowledgement))
    }

    async fn class_set(&self, request: Request<ClassRequest>) -> Result<Response<UserChanged>, Status> {
        let ClassRequest { name, rules } = request.into_inner();
        let (id, acknowledgement) = self.node.mailstore.change_class(&name, read(&rules)?).await.map_err(class)?;
        info!(cos = %name, "administrator changes class of service");
        Ok(changed(id, &acknowledgement))
    }

    async fn class_remove(&self, request: Request<ClassRequest>) -> Result<Response<UserChanged>, Status> {
        let name = request.into_inner().name;
        let (id, acknowledgement) = self.node.mailstore.remove_class(&name).await.map_err(class)?;
        info!(cos = %name, "administrator removes class of service");
        Ok(changed(id, &acknowledgement))
    }

    async fn class_list(&self, request: Request<ClassListRequest>) -> Result<Response<ClassListReply>, Status> {
        let ClassListRequest { limit, after } = request.into_inner();
        let mailstore = &self.node.mailstore;
        let classes = mailstore.classes().await.map_err(internal)?;
        let mut users = std::collections::HashMap::<_, u64>::new();
        for mailbox in mailstore.mailboxes().await.map_err(internal)? {
            // A mailbox with a removed class has the default class.
            let id = mailbox.class.filter(|id| classes.iter().any(|class| class.id == *id));
            *users.entry(id.unwrap_or(Class::DEFAULT)).or_default() += 1;
        }
        // The default class first, then by name.
        let cursor = |class: &Class| format!("{}{}.{}", u8::from(class.id != Class::DEFAULT), class.name, class.id);
        let classes = classes.into_iter().map(|class| (cursor(&class), class));
        let Part { items, next } = part(limit, &after, classes, |class| {
            Ok::<_, Status>(admin::Class {
                id: class.id.to_string(),
                rules: class
                    .rules
                    .values()
                    .map(|(rule, value)| ClassRule { word: rule.word().to_owned(), value: rule.show(value) })
                    .collect(),
                users: users.get(&class.id).copied().unwrap_or_default(),
                name: class.name,
                name_lost: class.name_lost,
            })
        })?;
        Ok(Response::new(ClassListReply { classes: items, next }))
    }

    async fn prompt_set(&self, request: Request<Streaming<PromptPart>>) -> Result<Response<UserChanged>, Status> {
        let mut parts = request.into_inner();
        let first =
            parts.message().await?.ok_or_else(|| Status::invalid_argument("the first part carries the name"))?;
        let key = self.prompt(&first.name)?;
        let wav = gather(parts, twinbox_prompts::LARGEST as usize, |part| part.wav).await?;
        Prompts::check(&key.name, &wav).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let acknowledgement = self.node.mailstore.set_custom_prompt(&key, Some(wav)).await.map_err(mail)?;
        Ok(changed(key, &acknowledgement))
    }

    async fn prompt_remove(&self, request: Request<PromptRequest>) -> Result<Response<UserChanged>, Status> {
        let key = self.prompt(&request.into_inner().name)?;
        let there = self.node.mailstore.custom_prompt(&key).await.map_err(mail)?;
        if there.is_none() {
            return Err(Status::not_found(format!(
                "the prompt {} is the set's own: `twinbox prompt list` shows those that replace one",
                key.name
            )));
        }
        let acknowledgement = self.node.mailstore.set_custom_prompt(&key, None).await.map_err(mail)?;
        Ok(changed(key, &acknowledgement))
    }

    async fn prompt_list(&self, _: Request<PromptListRequest>) -> Result<Response<PromptListReply>, Status> {
        let playing = self.node.config.prompts.replaced();
        let live = self.node.mailstore.live();
        let prompts = self.node.mailstore.custom_prompts().await.map_err(internal)?;
        let prompts = prompts
            .into_iter()
            .map(|prompt| Prompt {
                playing: playing.contains(&prompt.key.name) && prompt.key.language == live.usual.language,
                language: prompt.key.language,
                name: prompt.key.name,
                bytes: prompt.bytes,
                hash: prompt.wav.to_string(),
            })
            .collect();
        let names = self.node.config.prompts.names().into_iter().map(str::to_owned).collect();
        Ok(Response::new(PromptListReply { prompts, names }))
    }
}

/// Joins the parts of a stream, up to `limit` bytes.
pub(crate) async fn gather<P>(
    mut parts: Streaming<P>,
    limit: usize,
    piece: impl Fn(P) -> Bytes,
) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    while let Some(part) = parts.message().await? {
        let piece = piece(part);
        if whole.len() + piece.len() > limit {
            return Err(Status::invalid_argument(format!("it is larger than {} MiB", limit >> 20)));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn codec(name: &str) -> Result<Codec, Status> {
    match name {
        "pcmu" => Ok(Codec::Pcmu),
        "pcma" => Ok(Codec::Pcma),
        name => Err(Status::invalid_argument(format!("there is no codec '{name}'"))),
    }
}

fn read(rules: &[String]) -> Result<Vec<(Rule, Option<u64>)>, Status> {
    let wrong = |error: twinbox_mailbox::RuleError| Status::invalid_argument(error.to_string());
    rules.iter().map(|rule| Rule::parse(rule).map_err(wrong)).collect()
}

fn class(error: ClassError) -> Status {
    match error {
        ClassError::Name { .. } => Status::invalid_argument(error.to_string()),
        ClassError::Mail(error @ twinbox_mailstore::MailError::NoClass { .. }) => {
            Status::not_found(error.to_string())
        }
        ClassError::Mail(error) => mail(error),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn reply(id: String, outcome: &ImportOutcome) -> ImportReply {
    let (outcome, acknowledged) = match outcome {
        ImportOutcome::Taken(acknowledgement) => ("taken", acknowledged(acknowledgement)),
        ImportOutcome::Known => ("known", String::new()),
        ImportOutcome::Kept => ("kept", String::new()),
    };
    ImportReply { id, outcome: outcome.to_owned(), acknowledged }
}

/// The three names with the most similar beginning or end.
fn nearest(name: &str, names: &[&str]) -> Vec<String> {
    let alike = |other: &str| {
        let same = |(a, b): &(char, char)| a == b;
        name.chars().zip(other.chars()).take_while(same).count()
            + name.chars().rev().zip(other.chars().rev()).take_while(same).count()
    };
    let mut names: Vec<_> = names.iter().map(|other| (alike(other), *other)).collect();
    names.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.len().cmp(&b.1.len())));
    names.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}
