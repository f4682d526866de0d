-- What must hold of a deployment's row, in one place. PostgreSQL reads the text of every CHECK anew for each statement that
-- writes: those of the first migration cost two thirds of an INSERT. A function is read once for each session. Never
-- edit this file: add another.

CREATE FUNCTION is_sound(d deployments) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN d.ticket > 0
        AND d.state IN ('waiting', 'reserved', 'ready', 'running', 'succeeded', 'failed', 'cancelled')
        AND d.window_ms >= 0 IS NOT FALSE
        AND d.executor IN ('server', 'client')
        AND d.deadline_seconds >= 0 IS NOT FALSE
        AND d.pulse >= 0
        AND d.progress BETWEEN 0 AND 100
        AND d.event_count > 0
        AND d.report_count >= 0
        AND octet_length(d.lease_secret) = 32 IS NOT FALSE
        AND d.lease_ttl_ms >= 0 IS NOT FALSE
        AND d.log_total_bytes >= 0
        AND d.revision >= d.ticket
        AND d.fencing_token > d.ticket IS NOT FALSE
        AND d.log_head_end_seq BETWEEN 0 AND d.event_count
        AND d.log_trimmed_at_bytes BETWEEN 0 AND d.log_total_bytes
        AND (d.window_ms IS NULL OR d.state = 'waiting')
        AND (d.ended_at IS NOT NULL) = (d.state IN ('succeeded', 'failed', 'cancelled'))
        AND (d.cause IS NOT NULL) = (d.state IN ('failed', 'cancelled'))
        AND (d.cause IS NULL) = (d.cause_message IS NULL)
        AND (d.cause_phase IS NULL OR d.state = 'failed')
        AND (d.superseded_by IS NOT NULL) = (d.cause IS NOT DISTINCT FROM 'SUPERSEDED')
        AND (d.cause IS NULL OR d.cause = 'RELEASED' OR CASE d.state
            WHEN 'failed' THEN d.cause IN
                ('PHASE_FAILED', 'PHASE_TIMEOUT', 'VERIFY_FAILED', 'WORKER_LOST', 'UNCLAIMED', 'TIMED_OUT', 'STALLED')
            ELSE d.cause IN ('CANCELLED', 'SUPERSEDED', 'ABANDONED', 'EXPIRED') END)
        -- A lease is whole or not at all; who runs or has succeeded has one, who has not started has none.
        AND num_nulls(d.lease_secret, d.fencing_token, d.lease_ttl_ms, d.worker, d.started_at) IN (0, 5)
        AND CASE WHEN d.state IN ('running', 'succeeded') THEN d.lease_secret IS NOT NULL
                 WHEN d.state IN ('failed', 'cancelled') THEN true
                 ELSE d.lease_secret IS NULL END
        AND (d.cancel_requested_at IS NOT NULL OR (d.cancel_reason IS NULL AND d.cancel_superseded_by IS NULL));
END $$;

DO $$
DECLARE old text;
BEGIN
    FOR old IN SELECT conname FROM pg_constraint WHERE conrelid = 'deployments'::regclass AND contype = 'c' LOOP
        EXECUTE format('ALTER TABLE deployments DROP CONSTRAINT %I', old);
    END LOOP;
END $$;

ALTER TABLE deployments ADD CONSTRAINT deployments_are_sound CHECK (is_sound(deployments));
