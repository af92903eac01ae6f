//! A fake name server.

use std::{net::SocketAddr, sync::Arc};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, MX},
    },
};
use tokio::net::UdpSocket;

/// Records of a zone: `None` for a name that does not exist.
pub type Zone = fn(&str, RecordType) -> Option<Vec<RData>>;

/// A running name server; ends with the test.
pub struct Names {
    pub address: SocketAddr,
}

impl Names {
    pub async fn serve(zone: Zone) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(request) = Message::from_vec(&buffer[..length]) else { continue };
                let answer = answer(&request, zone).to_vec().expect("a message");
                socket.send_to(&answer, from).await.expect("sent");
            }
        });
        Self { address }
    }

    pub fn mx(preference: u16, host: &str) -> RData {
        RData::MX(MX::new(preference, Name::from_utf8(host).expect("a name")))
    }

    pub fn a(address: &str) -> RData {
        RData::A(A(address.parse().expect("an address")))
    }
}

fn answer(request: &Message, zone: Zone) -> Message {
    let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    for query in &request.queries {
        answer.add_query(query.clone());
        let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        match zone(&name, query.query_type()) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(records) => {
                for record in records.into_iter().filter(|record| record.record_type() == query.query_type()) {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, record));
                }
            }
        }
    }
    answer
}
