"""Pictures drawn from a seed, as a LightningDataModule."""

from leakage_audit.data.images import Images, check_known
from leakage_audit.data.pictures import Drawn, Pictures
from leakage_audit.data.synthetic import SCENES, SMALLEST


class SyntheticDataModule(Images):
    """Ten classes of natural-looking pictures, drawn from a seed: needs no download and no disk.

    Image i is of class i modulo the number of classes.

    Args:
        train_images: How many to train on, those held out for validation included.
        test_images: How many to test on; none of them is a training image.
        classes: Some of `leakage_audit.data.synthetic.SCENES`, labelled in this order; all ten by default.
        image_size: Height and width in pixels, at least 8.
        batch_size: Images in a batch.
        val_share: Share of the training images held out for validation; 0 validates on the test images.
        mean: Subtracted from the images in [0, 1]; one number, or one per channel.
        std: Divides the images; one number, or one per channel.
        num_workers: Processes that load images; 0 loads in the main one.
        seed: Chooses the pictures, the split and the order.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> data = SyntheticDataModule(train_images=20, test_images=10, image_size=16)
        >>> image, label, source = data.image_at(3)
        >>> tuple(image.shape), data.classes[label], source
        ((3, 16, 16), 'desert', 'synthetic desert, seed 0, 3')
    """

    def __init__(
        self,
        train_images: int = 2000,
        test_images: int = 400,
        classes: list[str] | None = None,
        image_size: int = 32,
        batch_size: int = 32,
        val_share: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, image_size, batch_size, val_share, mean, std, num_workers, seed)
        if image_size < SMALLEST:
            raise ValueError(f"image_size must be at least {SMALLEST}, got {image_size}")
        check_known(self._chosen, tuple(SCENES))
        for name, value in (("train_images", train_images), ("test_images", test_images)):
            if value < self.num_classes:
                raise ValueError(f"{name} must be at least one for each of {self.num_classes} classes, got {value}")
        self.train_images, self.test_images = train_images, test_images

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names in the order of their labels."""
        return self._chosen or tuple(SCENES)

    def _load(self, split: str) -> Pictures | None:
        everything = range(self.train_images + self.test_images)
        parts = {"train": everything[: self.train_images], "test": everything[self.train_images :]}
        return Drawn(self.classes, parts[split], self.image_size, self.seed) if split in parts else None
