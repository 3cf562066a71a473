package bucket

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"atc/fs/errors"
)

// From what S3 answers to the kind that callers decide by. It is the only
// place that reads the SDK's errors.

// s3Error gives a failed request its kind.
func s3Error(ctx context.Context, op, key string, err error) error {
	return errors.E(op, key, s3Kind(ctx, err), err)
}

func s3Kind(ctx context.Context, err error) errors.Kind {
	// The caller's end comes first: what it did to the request is no news.
	switch ctx.Err() {
	case context.Canceled:
		return errors.Canceled
	case context.DeadlineExceeded:
		return errors.Unavailable
	}
	var api smithy.APIError
	if stderrors.As(err, &api) {
		switch api.ErrorCode() {
		case "NoSuchKey", "NotFound":
			return errors.NotExist
		case "NoSuchBucket":
			// Not NotExist: a wrong name must not look like an empty store.
			return errors.Invalid
		case "ExistingObjectIsDirectory", "ObjectParentIsFile":
			return errors.Invalid // from servers that keep objects as files
		case "PreconditionFailed":
			return errors.Condition
		case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown":
			return errors.Unavailable
		}
	}
	var answer *smithyhttp.ResponseError
	if !stderrors.As(err, &answer) || answer.HTTPStatusCode() == 0 {
		var local *smithy.SerializationError
		if stderrors.As(err, &local) {
			return errors.Other
		}
		return errors.Unavailable // no answer, or half of one
	}
	switch status := answer.HTTPStatusCode(); {
	case status == http.StatusNotFound:
		return errors.NotExist
	case status == http.StatusPreconditionFailed:
		return errors.Condition
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusMovedPermanently:
		return errors.Permission
	case status == http.StatusBadRequest:
		return errors.Invalid
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests:
		return errors.Unavailable
	case status == http.StatusInsufficientStorage:
		return errors.NoSpace
	case status >= 500:
		return errors.Unavailable
	}
	return errors.Other
}

// rangeUnsatisfiable reports a range at or behind the end of its object.
func rangeUnsatisfiable(err error) bool {
	var answer *smithyhttp.ResponseError
	return stderrors.As(err, &answer) && answer.HTTPStatusCode() == http.StatusRequestedRangeNotSatisfiable
}

// errShort is a body that ended before its announced length.
func errShort(got int, want int64) error {
	return fmt.Errorf("the answer broke off after %d of %d bytes: %w", got, want, io.ErrUnexpectedEOF)
}
