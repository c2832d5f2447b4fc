package gonehttp

import (
	"context"
	"net/http"
	"time"
)

// steerMost is how long a browser waits for what it wants done.
const steerMost = 30 * time.Second

// An outcome is what has come of it.
type outcome struct {
	Error string `json:",omitempty"`
}

// steer drains or resumes a node, or moves an id to a node, or to whichever takes it.
func (h *Handler) steer(w http.ResponseWriter, r *http.Request) {
	if !h.control {
		answer(w, http.StatusForbidden, outcome{"this page only shows: it was made without WithControl"})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	id, node := r.PostFormValue("id"), r.PostFormValue("node")
	ctx, cancel := context.WithTimeout(r.Context(), steerMost)
	defer cancel()
	var err error
	switch r.PathValue("what") {
	case "drain":
		err = h.g.DrainNode(ctx, node)
	case "resume":
		err = h.g.ResumeNode(ctx, node)
	case "move":
		err = h.g.Move(ctx, id, node)
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		answer(w, http.StatusConflict, outcome{err.Error()})
		return
	}
	answer(w, http.StatusOK, outcome{})
}
