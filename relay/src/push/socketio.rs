//! Faces over Socket.IO, default namespace, Engine.IO 3 and 4.
//!
//! A face says which robot it is with `robotName`. The binding lives in [`Live`](crate::live::Live),
//! so it outlives the relay; this driver frees a robot whose face stays away for the grace time, and
//! after a restart it counts every bound face as away. A newer face of the same robot takes over:
//! the older one gets an `error` event with a reason and then a Socket.IO disconnect, after which
//! its client does not reconnect by itself, so that two pages never wrest a robot from each other.

use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use socketioxide::SocketIo;
use socketioxide::extract::{SocketRef, TryData};
use socketioxide::handler::ConnectHandler;
use socketioxide::layer::SocketIoLayer;
use socketioxide::socket::DisconnectReason;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::absences::Absences;
use super::{FaceEvent, Page, deliver, send};
use crate::catalog::stored_name;
use crate::guide::view::LiveRobot;
use crate::http::Services;
use crate::live::SocketId;

/// Packets that wait for one face. A face gets a handful for each thing its guest asks, so one that
/// is this far behind does not read.
const FACE_QUEUE: usize = 64;
/// The largest packet or polling request of a face: it says little more than a name.
const FACE_BYTES: u16 = 16 * 1024;
/// How long a face may be connected and not yet have joined the namespace.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
/// `robotName` events of one socket that may wait at a time. Each costs a write to disk.
const CLAIMS: usize = 4;
/// The pause after which a robot that could not be freed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How much of an unknown name is repeated to who said it.
const NAME_ECHO: usize = 100;

/// The layer that speaks Socket.IO, and the handle to its sockets. Nobody can connect before
/// [`Faces::start`].
pub(super) fn build() -> (SocketIoLayer, SocketIo) {
    SocketIo::builder()
        .max_buffer_size(FACE_QUEUE)
        .max_payload(FACE_BYTES.into())
        .ws_read_buffer_size(FACE_BYTES.into())
        .ws_max_message_size(FACE_BYTES.into())
        .ws_max_frame_size(FACE_BYTES.into())
        .connect_timeout(JOIN_LIMIT)
        .build_layer()
}

/// The driver. See the module's documentation.
#[derive(Debug)]
pub struct Faces {
    services: Arc<Services>,
    absences: SyncMutex<Absences>,
    changed: Notify,
}

/// What the handlers of one socket share.
#[derive(Debug)]
struct Face {
    id: SocketId,
    /// The robot it is bound to. Held while that changes, so that a socket's end comes after its
    /// claims.
    robot: Mutex<Option<RobotId>>,
    claims: Semaphore,
}

impl Faces {
    /// Lets faces connect, and counts those that were bound before as away. Returns the layer to
    /// serve.
    pub async fn start(services: Arc<Services>) -> (Arc<Self>, SocketIoLayer) {
        let layer = services.push.layer.clone();
        let io = services.push.io.clone();
        let faces = Arc::new(Self {
            services,
            absences: SyncMutex::default(),
            changed: Notify::new(),
        });
        match faces.services.live.faces().await {
            Ok(bound) => {
                for (robot, socket) in bound {
                    faces.note_gone(robot, socket);
                }
            }
            Err(error) => warn!(%error, "faces of the last run stay bound until they come back"),
        }
        let greeter = Arc::clone(&faces);
        let binder = Arc::clone(&faces);
        let greet = move |socket: SocketRef| {
            let faces = Arc::clone(&greeter);
            async move { faces.greet(&socket).await }
        };
        // The handlers are set before the client hears that it is connected, so none of its events
        // can come too early.
        let bind_handlers = move |socket: SocketRef| {
            let faces = Arc::clone(&binder);
            async move {
                faces.attach(&socket);
                Ok::<_, std::convert::Infallible>(())
            }
        };
        io.ns("/", greet.with(bind_handlers));
        (faces, layer)
    }

    /// Frees robots whose face stays away. Never ends.
    pub async fn run(&self) {
        loop {
            let timeout = self.lock().poll_timeout();
            let sleep = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep => self.free().await,
            }
        }
    }

    async fn free(&self) {
        let over = self.lock().handle_timeout(Instant::now().into_std());
        for (robot, socket) in over {
            match self.services.live.unbind(robot, &socket).await {
                Ok(was_bound) => debug!(%robot, was_bound, "face stayed away"),
                Err(error) => {
                    warn!(%robot, %error, "robot not freed yet");
                    let again = Instant::now() + RETRY;
                    self.lock().handle_gone(robot, socket, again.into_std());
                }
            }
        }
    }

    fn attach(self: &Arc<Self>, socket: &SocketRef) {
        let face = Arc::new(Face {
            id: SocketId(socket.id.to_string()),
            robot: Mutex::new(None),
            claims: Semaphore::new(CLAIMS),
        });
        let (faces, claiming) = (Arc::clone(self), Arc::clone(&face));
        socket.on(
            "robotName",
            move |socket: SocketRef, TryData::<String>(name)| {
                let (faces, face) = (Arc::clone(&faces), Arc::clone(&claiming));
                async move {
                    if let Err(reason) = faces.claim(&socket, &face, name.ok()).await {
                        deliver(&faces.services, &face.id, &FaceEvent::error(&reason));
                    }
                }
            },
        );
        let faces = Arc::clone(self);
        socket.on_disconnect(move |reason: DisconnectReason| {
            let (faces, face) = (Arc::clone(&faces), Arc::clone(&face));
            async move { faces.leave(&face, reason).await }
        });
    }

    async fn greet(&self, socket: &SocketRef) {
        self.services.metrics.faces.inc();
        match self.robots_available().await {
            Ok(robots) => {
                if let Err(error) = send(socket, &FaceEvent::robots_available(&robots)) {
                    debug!(%error, "face not greeted");
                }
            }
            Err(error) => warn!(%error, "a face was not told which robots are available"),
        }
    }

    async fn robots_available(&self) -> anyhow::Result<String> {
        let live = &self.services.live;
        let mut free = Vec::new();
        for robot in self.services.catalog.robots().await? {
            if live.face(robot.id).await?.is_none() {
                let guidance = live.guidance(robot.id).await?;
                let contact = live.presence(robot.id).await?.contact;
                free.push(LiveRobot::new(robot, None, guidance, contact));
            }
        }
        Ok(serde_json::to_string(&free)?)
    }

    /// Binds a face to the robot of that name. The error is for the face.
    async fn claim(
        &self,
        socket: &SocketRef,
        face: &Face,
        name: Option<String>,
    ) -> Result<(), String> {
        let Ok(_waiting) = face.claims.try_acquire() else {
            return Err("robotName was said too often at once; wait for an answer".to_owned());
        };
        let Some(name) = name else {
            return Err("robotName takes one text, the robot's name".to_owned());
        };
        let mut bound = face.robot.lock().await;
        let services = &self.services;
        let name = stored_name(&name);
        let away = |error: &dyn std::fmt::Display| {
            warn!(%error, "a face was not bound");
            "the relay cannot bind a face now; try again".to_owned()
        };
        let robots = services.catalog.robots().await.map_err(|e| away(&e))?;
        let Some(robot) = robots.into_iter().find(|robot| robot.name == name) else {
            let name: String = name.chars().take(NAME_ECHO).collect();
            return Err(format!("there is no robot called {name:?}"));
        };
        let robot = robot.id;
        let _turn = services.turns.take(robot).await;
        // It may have been removed meanwhile.
        services.catalog.robot(robot).await.map_err(|e| away(&e))?;
        let code = services.live.code(robot).await.map_err(|e| away(&e))?;
        if let Some(before) = bound.take_if(|before| *before != robot) {
            let freed = services.live.unbind(before, &face.id).await;
            freed.map_err(|e| away(&e))?;
        }
        let older = services.live.bind(robot, &face.id).await;
        let older = older.map_err(|e| away(&e))?;
        *bound = Some(robot);
        self.lock().handle_back(robot);
        if let Some(older) = older {
            let reason = format!("another face has taken over the robot {name:?}");
            deliver(services, &older, &FaceEvent::error(&reason));
            services.push.dismiss(&older);
        }
        for event in [FaceEvent::auth_code(code), FaceEvent::page(Page::Welcome)] {
            deliver(services, &face.id, &event);
        }
        if !socket.connected() {
            self.note_gone(robot, face.id.clone());
        }
        Ok(())
    }

    async fn leave(&self, face: &Face, reason: DisconnectReason) {
        self.services.metrics.faces.dec();
        let Some(robot) = *face.robot.lock().await else {
            return;
        };
        debug!(%robot, ?reason, "face left");
        match self.services.live.face(robot).await {
            // Otherwise another face has taken over.
            Ok(Some(bound)) if bound == face.id => self.note_gone(robot, bound),
            Ok(Some(_) | None) => {}
            Err(error) => {
                warn!(%robot, %error, "it is not known whose face left");
                self.note_gone(robot, face.id.clone());
            }
        }
    }

    fn note_gone(&self, robot: RobotId, socket: SocketId) {
        let free_at = Instant::now() + self.services.settings.face_grace;
        self.lock().handle_gone(robot, socket, free_at.into_std());
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Absences> {
        // Nothing panics while it holds this lock.
        self.absences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
