//! Jobs that run at set times: list, add, change, run now, history, remove.

mod jobs;
mod runs;

use tonic::{Request, Response, Status};
use twinbox_timetable_store::TimetableStore;
use twinbox_wire::timetable::{
    JobAddRequest, JobChanged, JobHistoryReply, JobHistoryRequest, JobListReply, JobListRequest, JobNameRequest,
    JobRunReply, JobSetRequest,
    timetables_server::{Timetables, TimetablesServer},
};

use crate::AdminHandles;

/// Serves administrators' requests about the timetable.
pub(crate) struct TimetableService(AdminHandles);

impl TimetableService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        Self(node)
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> TimetablesServer<Self> {
        TimetablesServer::new(self)
    }
}

#[tonic::async_trait]
impl Timetables for TimetableService {
    async fn job_list(&self, _: Request<JobListRequest>) -> Result<Response<JobListReply>, Status> {
        jobs::list(&self.0).await.map(Response::new)
    }

    async fn job_add(&self, request: Request<JobAddRequest>) -> Result<Response<JobChanged>, Status> {
        jobs::add(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn job_set(&self, request: Request<JobSetRequest>) -> Result<Response<JobChanged>, Status> {
        jobs::set(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn job_remove(&self, request: Request<JobNameRequest>) -> Result<Response<JobChanged>, Status> {
        jobs::remove(&self.0, &request.into_inner().name).await.map(Response::new)
    }

    async fn job_run(&self, request: Request<JobNameRequest>) -> Result<Response<JobRunReply>, Status> {
        runs::run(&self.0, &request.into_inner().name).await.map(Response::new)
    }

    async fn job_history(&self, request: Request<JobHistoryRequest>) -> Result<Response<JobHistoryReply>, Status> {
        runs::history(&self.0, &request.into_inner()).await.map(Response::new)
    }
}

/// The timetable in the store of this node.
fn timetable(node: &AdminHandles) -> TimetableStore {
    TimetableStore::of(&node.mailstore)
}
