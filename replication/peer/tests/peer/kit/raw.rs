//! One side of a stream written by hand, for frames that a node never sends.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use twinbox_ids::{ClusterId, Origin};
use twinbox_pki::NodeIdentity;
use twinbox_replication_store::codec;
use twinbox_wire::replication::{
    FollowerFrame, Hello, SourceFrame, Vector, follower_frame, replication_client::ReplicationClient,
    source_frame::Frame,
};

use super::{Cluster, name};

/// A follower written by hand, with a certificate of the cluster.
pub struct Raw {
    pub out: mpsc::Sender<FollowerFrame>,
    pub frames: Streaming<SourceFrame>,
}

impl Raw {
    pub async fn follow(identity: &NodeIdentity, cluster: &Cluster, hello: Hello) -> Result<Self, Status> {
        let endpoint = identity.endpoint(&name("a"), &cluster.address("a").to_string()).unwrap();
        let mut client = ReplicationClient::new(endpoint.connect().await.unwrap());
        let (out, outgoing) = mpsc::channel(64);
        out.send(FollowerFrame { frame: Some(follower_frame::Frame::Hello(hello)) }).await.unwrap();
        let frames = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { out, frames })
    }

    pub async fn send(&self, frame: follower_frame::Frame) {
        self.out.send(FollowerFrame { frame: Some(frame) }).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Frame, Status> {
        Ok(self.frames.message().await?.expect("the stream ended without a frame").frame.unwrap())
    }
}

/// A greeting of a node without data.
pub fn hello(cluster: ClusterId, node: &str) -> Hello {
    Hello {
        protocol: 3,
        cluster: Bytes::copy_from_slice(&cluster.to_bytes()),
        name: node.into(),
        origin: codec::origin_to_wire(Origin::random()),
        vector: Some(Vector::default()),
        recording: Vec::new(),
        lacks_data: false,
        fills_by_state: true,
    }
}
