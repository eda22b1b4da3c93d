"""An exported detector without torch: NumPy, Pillow and ONNX Runtime alone.

    from knowngood.runtime import ExportedDetector

    detector = ExportedDetector("parts.onnx")
    for row in detector.detect("today"):
        print(row["id"], row["anomaly_score"], row["p_value"], row["is_anomalous"])

`knowngood export MODEL parts.onnx` writes the file.
"""

from knowngood.runtime.model import ExportedDetector

__all__ = ["ExportedDetector"]
